"""The sound track of a file, mono, at a given rate."""

from pathlib import Path

import av
import numpy as np
from jaxtyping import Float32
from scipy.signal import resample_poly

from datamodules.media.container import check_riff, check_whole, opened
from hmmoe.errors import DataBroken

ARRAY_RATE = 32_000
"""Samples a second of the arrays that DG-SCT extracts."""


def read_sound(path: str | Path, sample_rate: int) -> Float32[np.ndarray, " samples"] | None:
    """All of the first audio track from time zero on, channels averaged; None if there is no track.

    A track that begins late is preceded by silence, so that second t of sound stays beside second t of video.

    Raises:
        DataMissing: no such file.
        DataBroken: empty, damaged, or shorter than it declares.
    """
    # Channels are averaged here: FFmpeg's own way to mono is 3 dB louder where it works on fractions.
    resampler = av.AudioResampler(format="fltp", rate=sample_rate)
    pieces: list[np.ndarray] = []
    check_riff(path)
    with opened(path) as container:
        if not container.streams.audio:
            return None
        stream, end = container.streams.audio[0], 0.0
        for frame in container.decode(stream):
            end += frame.samples / frame.sample_rate
            if not pieces and (frame.time or 0.0) > 0:
                pieces.append(np.zeros(round(frame.time * sample_rate), np.float32))
            pieces += [piece.to_ndarray().mean(0) for piece in resampler.resample(frame)]
        check_whole(path, stream, end)
        if pieces:
            pieces += [piece.to_ndarray().mean(0) for piece in resampler.resample(None)]
    return np.concatenate(pieces) if pieces else None


def read_array(path: str | Path, sample_rate: int) -> Float32[np.ndarray, " samples"]:
    """An extracted sound as DG-SCT saves it: one row of 32,000 samples a second.

    Raises:
        DataBroken: no such array.
    """
    try:
        samples = np.load(path, allow_pickle=False)
    except (ValueError, EOFError, OSError) as fault:
        raise DataBroken(f"{path} is no numpy array ({fault}): extract the sound of this clip again") from fault
    if samples.ndim != 1 or not np.issubdtype(samples.dtype, np.floating):
        raise DataBroken(
            f"{path}: expected one row of fractions, {ARRAY_RATE} a second, found {samples.dtype} of {samples.shape}: "
            "extract the sound of this clip again"
        )
    return resample_poly(samples.astype(np.float32), sample_rate, ARRAY_RATE).astype(np.float32)
