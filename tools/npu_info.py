"""Script for ``depth-distill npu-info``."""

import sys

from depth_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["npu-info", *sys.argv[1:]]))
