"""Script for ``depth-distill error-budget``."""

import sys

from depth_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["error-budget", *sys.argv[1:]]))
