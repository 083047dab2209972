"""Script for ``depth-distill mixed-precision``."""

import sys

from depth_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["mixed-precision", *sys.argv[1:]]))
