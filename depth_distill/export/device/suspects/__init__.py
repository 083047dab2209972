"""Known ways in which a device's outputs differ from those of the float network, each with its cure."""
