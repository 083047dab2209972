"""Script for ``depth-distill ptq-table``."""

import sys

from depth_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["ptq-table", *sys.argv[1:]]))
