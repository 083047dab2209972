"""``depth-distill ptq-table``, for whoever calls it as a script."""

import sys

from depth_distill.cli import main

if __name__ == "__main__":
    sys.exit(main(["ptq-table", *sys.argv[1:]]))
