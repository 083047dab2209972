"""Fake quantization: quantizers, where they go, calibration."""
