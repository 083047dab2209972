"""``python -m depth_distill``."""

import sys

from depth_distill.cli import main

if __name__ == "__main__":
    sys.exit(main())
