"""Fake quantization: quantizers, their placement, and calibration."""
