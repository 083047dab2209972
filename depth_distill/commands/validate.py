"""Print the metrics of a checkpoint on the validation split."""

from depth_distill.commands.lightning import add_arguments, run

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = """
depth-distill validate --config runs/NAME/TIME/config.yaml --ckpt_path runs/NAME/TIME/checkpoints/last.ckpt
"""
