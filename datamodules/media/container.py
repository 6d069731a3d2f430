"""Opening and decoding media files with PyAV, with messages that name the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError

from hmmoe.errors import DataBroken, DataMissing

REMEDY = "fetch this file again, or delete it and set data.missing=drop to go on without it"


@contextmanager
def opened(path: str | Path) -> Iterator[InputContainer]:
    """An open file; any decoding fault inside the block is reported as that file's.

    Raises:
        DataMissing: no such file.
        DataBroken: empty, cut off, or no media file.
    """
    path = Path(path)
    if not path.is_file():
        raise DataMissing(f"no media file at {path}: complete the dataset at data.root")
    if path.stat().st_size == 0:
        raise DataBroken(f"{path} is empty: {REMEDY}")
    try:
        with av.open(str(path)) as container:
            yield container
    except FFmpegError as fault:
        raise DataBroken(f"{path} is cut off or damaged ({fault.strerror}): {REMEDY}") from fault
