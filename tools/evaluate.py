"""Script for ``depth-distill evaluate``."""

import sys

from depth_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["evaluate", *sys.argv[1:]]))
