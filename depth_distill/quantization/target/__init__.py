"""NPU profiles: what a chip and its tool chain can do."""
