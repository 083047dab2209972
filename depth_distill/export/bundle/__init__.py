"""From a checkpoint to a bundle: the pipeline, its steps, artifacts, manifest and report."""
