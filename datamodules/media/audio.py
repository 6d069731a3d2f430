"""The sound track of a file, mono, at a given rate."""

from pathlib import Path

import av
import numpy as np
from jaxtyping import Float32

from datamodules.media.container import check_whole, opened


def read_sound(path: str | Path, sample_rate: int) -> Float32[np.ndarray, " samples"] | None:
    """All of the first audio track from time zero on, channels averaged; None if there is no track.

    A track that begins late is preceded by silence, so that second t of sound stays beside second t of video.

    Raises:
        DataMissing: no such file.
        DataBroken: empty, damaged, or shorter than it declares.
    """
    resampler = av.AudioResampler(format="fltp", layout="mono", rate=sample_rate)
    pieces: list[np.ndarray] = []
    with opened(path) as container:
        if not container.streams.audio:
            return None
        stream, end = container.streams.audio[0], 0.0
        for frame in container.decode(stream):
            end += frame.samples / frame.sample_rate
            if not pieces and (frame.time or 0.0) > 0:
                pieces.append(np.zeros(round(frame.time * sample_rate), np.float32))
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(frame)]
        check_whole(path, stream, end)
        if pieces:
            pieces += [piece.to_ndarray()[0] for piece in resampler.resample(None)]
    return np.concatenate(pieces) if pieces else None
