"""Frames of a video at given times."""

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
from jaxtyping import Bool, UInt8

from datamodules.media.container import REMEDY, SLACK, check_whole, opened
from hmmoe.errors import DataBroken


def duration(path: str | Path) -> float:
    """Seconds of video that a file declares; reads no frame.

    Raises:
        DataMissing: no such file.
        DataBroken: empty, damaged, without video, or of unknown length.
    """
    with opened(path) as container:
        if not container.streams.video:
            raise DataBroken(f"{path} has no video stream: {REMEDY}")
        stream = container.streams.video[0]
        if stream.duration and stream.time_base:
            return float(stream.duration * stream.time_base)
        if container.duration:
            return container.duration / av.time_base
    raise DataBroken(f"{path} does not say how long it is: {REMEDY}")


def read_frames(
    path: str | Path, times: Sequence[float]
) -> tuple[UInt8[np.ndarray, "T H W 3"], Bool[np.ndarray, " T"]]:
    """The frame on screen at every one of ``times`` (seconds, rising), decoded in one pass.

    Returns:
        frames, and which of them exist: False (and zeros) where the video ended over ``SLACK`` seconds before.

    Raises:
        DataMissing: no such file.
        DataBroken: empty, damaged, without video, or shorter than it declares.
    """
    frames: list[np.ndarray | None] = []
    with opened(path) as container:
        if not container.streams.video:
            raise DataBroken(f"{path} has no video stream: {REMEDY}")
        stream = container.streams.video[0]
        shown, start, end = None, 0.0, 0.0
        for frame in container.decode(stream):
            if shown is None:
                start = frame.time or 0.0  # some files begin late: their first frame counts from zero on
            end = frame.time or 0.0
            while shown is not None and len(frames) < len(times) and times[len(frames)] < end:
                frames.append(_rgb(shown))
            shown = frame
            if len(frames) == len(times):
                break
        else:
            check_whole(path, stream, end - start)
    if shown is None:
        raise DataBroken(f"{path} holds no frame that can be decoded: {REMEDY}")
    frames += [_rgb(shown) if time < end + SLACK else None for time in times[len(frames) :]]
    blank = np.zeros((shown.height, shown.width, 3), np.uint8)
    kept = np.array([frame is not None for frame in frames])
    return np.stack([blank if frame is None else frame for frame in frames]), kept


def _rgb(frame: av.VideoFrame) -> UInt8[np.ndarray, "H W 3"]:
    return frame.to_ndarray(format="rgb24")
