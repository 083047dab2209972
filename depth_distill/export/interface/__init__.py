"""What goes into and comes out of a file: inputs, outputs, clips, calibration images, decoders."""
