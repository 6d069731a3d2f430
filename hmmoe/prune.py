"""Entry point: ``python -m hmmoe.prune --help``. Only hands over."""

import sys

from hmmoe.runtime.pruning import main

if __name__ == "__main__":
    sys.exit(main())
