"""The built-in data set: procedural scenes with exact depth."""

from depth_distill.data.synthetic.dataset import SyntheticDepth

__all__ = ["SyntheticDepth"]
