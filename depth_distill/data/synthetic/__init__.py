"""Procedural scenes with exact depth: the built-in data set."""

from depth_distill.data.synthetic.dataset import SyntheticDepth

__all__ = ["SyntheticDepth"]
