"""Write depth maps, and panels of image and depth, into the folder ``predictions`` of the run folder."""

from depth_distill.commands.lightning import add_arguments, run

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = """
depth-distill predict --config runs/NAME/TIME/config.yaml --ckpt_path runs/NAME/TIME/checkpoints/last.ckpt
"""
