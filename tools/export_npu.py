"""Script for ``depth-distill export``."""

import sys

from depth_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["export", *sys.argv[1:]]))
