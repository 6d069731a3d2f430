"""Messages on the console, above a progress bar if there is one."""

import logging
import sys
from typing import TextIO


class Console(logging.StreamHandler):
    """Writes to what ``sys.stdout`` is at that moment.

    A bar puts itself in its place, to keep its own line below what is printed; a stream that was taken before would
    write into the bar's line. Named in ``conf/hydra/job_logging``.
    """

    def __init__(self) -> None:
        logging.Handler.__init__(self)  # StreamHandler's own would take a stream now

    @property
    def stream(self) -> TextIO:
        """Of this moment."""
        return sys.stdout
