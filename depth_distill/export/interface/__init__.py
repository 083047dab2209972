"""Files beside a network for its users: calibration images, and decoders of its outputs."""
