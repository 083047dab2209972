"""Calibration images for a tool chain that calibrates by minimum and maximum: chosen by what their ranges do."""
