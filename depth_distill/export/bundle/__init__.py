"""Export of a checkpoint as a bundle: pipeline, steps, artifacts, verification, manifest and report."""
