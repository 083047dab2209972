"""Script for ``depth-distill npu-compare``."""

import sys

from depth_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["npu-compare", *sys.argv[1:]]))
