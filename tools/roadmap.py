"""Script for ``depth-distill roadmap``."""

import sys

from depth_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["roadmap", *sys.argv[1:]]))
