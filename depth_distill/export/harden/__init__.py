"""A network in, the same file back: robust against INT8 where that can be had without training."""
