"""Writing a small mp4 with one picture a second and a sound track."""

from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.codec.codec import UnknownCodecError
from jaxtyping import Float32, UInt8


def write_clip(
    path: Path,
    pictures: UInt8[np.ndarray, "T H W 3"],
    sound: Float32[np.ndarray, " samples"] | None,
    *,
    fps: int,
    sample_rate: int,
) -> None:
    """H.264 (MPEG-4 part 2 where FFmpeg lacks x264) and AAC; each picture stands for a second.

    Args:
        path: file to write.
        pictures: even height and width.
        sound: mono, -1..1; None writes no track.
        fps: frames per second.
        sample_rate: of the sound.
    """
    with av.open(str(path), "w") as container:
        video = container.add_stream(_video_codec(), rate=fps)
        video.height, video.width = pictures.shape[1:3]
        video.pix_fmt, video.time_base = "yuv420p", Fraction(1, fps)
        video.bit_rate, video.thread_count = 400_000, 1
        if video.codec.name == "libx264":
            video.options = {"preset": "ultrafast", "crf": "20"}
        audio = None
        if sound is not None:
            audio = container.add_stream("aac", rate=sample_rate, layout="mono")
            audio.options = {"aac_coder": "fast"}  # the default one takes ten times as long as the pictures
        for index in range(len(pictures) * fps):
            frame = av.VideoFrame.from_ndarray(pictures[index // fps], format="rgb24")
            frame.pts = index
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is None or sound is None:
            return
        frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None]), format="fltp", layout="mono")
        frame.sample_rate, frame.pts, frame.time_base = sample_rate, 0, Fraction(1, sample_rate)
        container.mux(audio.encode(frame))
        container.mux(audio.encode(None))


def _video_codec() -> str:
    try:
        return av.Codec("libx264", "w").name
    except UnknownCodecError:
        return "mpeg4"
