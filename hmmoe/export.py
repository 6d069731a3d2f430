"""Entry point: ``python -m hmmoe.export --help``. Only hands over."""

import sys

from hmmoe.runtime.exporting import main

if __name__ == "__main__":
    sys.exit(main())
