"""Entry point: ``python -m hmmoe.analysis.profile experiment=ave_hmmoe peft=hmmoe,lora``. Only hands over."""

import sys

from hmmoe.runtime.profiling import main

if __name__ == "__main__":
    sys.exit(main())
