"""Train a network as a config says, evaluate the best checkpoint, and print metrics and what to do next.

The run folder gets the resolved config, the log, checkpoints and pictures. After Ctrl-C, a run goes on from its
``last.ckpt``, given as --ckpt_path, in the same folder.
"""

from depth_distill.commands.lightning import add_arguments, run

__all__ = ["EXAMPLE", "add_arguments", "run"]

EXAMPLE = """
depth-distill fit --config quickstart
depth-distill fit --config teacher/resnet18 --data.root my_data --trainer.max_epochs 20
"""
