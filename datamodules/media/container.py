"""Opening and decoding media files with PyAV, with messages that name the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Stream

from hmmoe.errors import DataBroken, DataMissing

SLACK = 1.0
"""Seconds that a track may end before the length its file declares."""
STREAMED = 2**32 - 64
"""Sizes of wav headers from here on say that the length was not known when they were written."""
REMEDY = "fetch this file again, or delete it and set data.missing=drop or zero to go on without it"


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


def check_riff(path: str | Path) -> None:
    """Refuse a wav file that is much shorter than its header says: FFmpeg takes the file's length for the sound's.

    Raises:
        DataBroken: names file and both lengths.
    """
    path = Path(path)
    if not path.is_file():
        return
    with path.open("rb") as file:
        head = file.read(32)
    if head[:4] != b"RIFF" or head[8:16] != b"WAVEfmt " or len(head) < 32:
        return
    declared, rate = int.from_bytes(head[4:8], "little") + 8, int.from_bytes(head[28:32], "little")
    size = path.stat().st_size
    if declared < STREAMED and size + SLACK * rate < declared:
        raise DataBroken(f"{path} breaks off after {size} of {declared} bytes: {REMEDY}")


def check_whole(path: str | Path, stream: Stream, end: float) -> None:
    """Refuse a stream that ended, in seconds, well before what its file declares: FFmpeg itself says nothing.

    Raises:
        DataBroken: names file and both lengths.
    """
    declared = float(stream.duration * stream.time_base) if stream.duration and stream.time_base else 0.0
    if end + SLACK < declared:
        raise DataBroken(f"{path}: its {stream.type} breaks off after {end:.1f} of {declared:.1f} seconds: {REMEDY}")
