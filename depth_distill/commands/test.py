"""Print the metrics of a checkpoint on the test split."""

from depth_distill.commands.lightning import add_arguments, run

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = """
depth-distill test --config runs/NAME/TIME/config.yaml --ckpt_path runs/NAME/TIME/checkpoints/last.ckpt
"""
