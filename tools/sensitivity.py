"""Script for ``depth-distill sensitivity``."""

import sys

from depth_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["sensitivity", *sys.argv[1:]]))
