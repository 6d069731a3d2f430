"""Media as people upload them: channels, rates, frame rates, lengths; and pictures of any depth."""

import wave
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from datamodules.ave import Seconds
from datamodules.footage import Footage, Take
from datamodules.media.audio import read_array, read_sound
from datamodules.media.cache import Keep
from datamodules.media.clips import Clips, windows
from datamodules.media.image import Pixels, read_rgb
from datamodules.media.logmel import LogMel
from datamodules.media.video import duration, read_frames
from hmmoe.errors import DataBroken
from tests.datamodules.conftest import AUDIO, RATE, VISION, brightness, clip

PITCH = 440


def tone(seconds: float, rate: int) -> np.ndarray:
    return (0.4 * np.sin(2 * np.pi * PITCH * np.arange(round(seconds * rate)) / rate)).astype(np.float32)


def write_sound(path: Path, channels: np.ndarray, rate: int, codec: str = "pcm_s16le") -> Path:
    """(channels, samples) to a file."""
    layout = "mono" if len(channels) == 1 else "stereo"
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=rate, layout=layout)
        samples = np.ascontiguousarray((channels.T * 32767).astype("<i2").reshape(1, -1))
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout=layout)
        frame.sample_rate = rate
        frame.pts = 0
        resampler = av.AudioResampler(
            format=track.format, layout=layout, rate=rate, frame_size=track.frame_size or 1024
        )
        for piece in [*resampler.resample(frame), *resampler.resample(None)]:
            container.mux(track.encode(piece))
        container.mux(track.encode(None))
    return path


def write_video(path: Path, times: list[float], greys: list[int], rate: int = 1000) -> Path:
    """Frames at given seconds: a variable frame rate."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=25, options={"crf": "10"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, "yuv420p"
        stream.time_base = stream.codec_context.time_base = Fraction(1, rate)
        for time, grey in zip(times, greys, strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((32, 48, 3), grey, np.uint8), format="rgb24")
            frame.pts, frame.time_base = round(time * rate), Fraction(1, rate)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.mark.parametrize("rate", [8000, 11025, 22050, 44100, 48000])
@pytest.mark.parametrize("channels", [1, 2])
def test_any_rate_and_mono_or_stereo_gives_the_same_sound(tmp_path: Path, rate: int, channels: int):
    path = write_sound(tmp_path / "a.wav", np.stack([tone(2, rate)] * channels), rate)
    sound = read_sound(path, RATE)
    assert len(sound) == pytest.approx(2 * RATE, abs=RATE // 100)
    spectrum = np.abs(np.fft.rfft(sound[:RATE]))
    assert spectrum.argmax() == PITCH
    assert np.abs(sound[1000 : RATE - 1000]).max() == pytest.approx(0.4, abs=0.01)


def test_channels_are_averaged(tmp_path: Path):
    """A voice on the left alone is heard at half its loudness; opposite channels cancel."""
    left = tone(1, RATE)
    one = read_sound(write_sound(tmp_path / "left.wav", np.stack([left, 0 * left]), RATE), RATE)
    assert np.abs(one).max() == pytest.approx(0.2, abs=0.01)
    none = read_sound(write_sound(tmp_path / "opposite.wav", np.stack([left, -left]), RATE), RATE)
    assert np.abs(none).max() < 1e-3


def test_a_variable_frame_rate_shows_what_was_on_screen(tmp_path: Path):
    """One frame stands for 2 s, then ten a second: the frame of a moment is by time, not by number."""
    times = [0.0, 2.0, *np.arange(2.1, 4.0, 0.1).tolist()]
    greys = [40, 120, *[200] * (len(times) - 2)]
    path = write_video(tmp_path / "vfr.mp4", times, greys)
    frames, kept = read_frames(path, [0.5, 1.9, 2.05, 3.0])
    assert kept.all()
    assert frames.mean(axis=(1, 2, 3)).tolist() == pytest.approx([40, 40, 120, 200], abs=6)


def test_a_video_of_one_frame_is_whole(tmp_path: Path):
    path = write_video(tmp_path / "one.mp4", [0.0], [90])
    frames, kept = read_frames(path, [0.0, 0.5, 5.0])
    assert kept.tolist() == [True, True, False]
    assert frames[0].mean() == pytest.approx(90, abs=6)
    assert duration(path) < 1


def test_a_sound_of_no_length_is_silence_that_is_not_kept(tmp_path: Path):
    path = tmp_path / "empty.wav"
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, RATE, 0, "NONE", ""))
    assert read_sound(path, RATE) is None
    pictures, kept = windows(np.zeros(0, np.float32), [0.0, 1.0], LogMel(**AUDIO))
    assert not kept.any() and not pictures.any()


def test_a_scrap_shorter_than_a_frame_is_not_kept(tmp_path: Path):
    path = write_sound(tmp_path / "scrap.wav", np.stack([tone(0.01, RATE)]), RATE)
    pictures, kept = windows(read_sound(path, RATE), [0.0], LogMel(**AUDIO))
    assert not kept.any() and not pictures.any()


def test_a_clip_without_a_sound_track_keeps_its_pictures(tmp_path: Path):
    (tmp_path / "video").mkdir()
    clip(tmp_path / "video" / "mute.mp4", seconds=4, sound=False)
    footage = Footage(
        ["mute"],
        Clips(tmp_path, extracted=False, fps=1),
        Take(frames=4, slices=2),
        pixels=Pixels(**VISION),
        logmel=LogMel(**AUDIO),
        keep=Keep(),
        fills=False,
        name="test",
    )
    sample = footage.get("mute", None)
    assert sample["keep"]["vision"].all() and not sample["keep"]["audio"].any()
    assert sample["audio"].shape == (2, *LogMel(**AUDIO).shape) and not sample["audio"].any()
    seen = ((sample["vision"].mean((1, 2, 3)) * 0.5 + 0.5) * 255).tolist()
    assert seen == pytest.approx([brightness(second) for second in range(4)], abs=4)


@pytest.mark.parametrize("suffix", [".wav", ".npy"])
def test_ave_reads_what_the_peers_extract(tmp_path: Path, suffix: str):
    """LAVISH: video_frames, raw_audio, 16 kHz wav. DG-SCT: frames, wave, npy at 32 kHz."""
    frames, sounds = ("video_frames", "raw_audio") if suffix == ".wav" else ("frames", "wave")
    (tmp_path / frames / "-abc").mkdir(parents=True)
    for number in range(30):
        picture = Image.fromarray(np.full((20, 30, 3), brightness(number // 3), np.uint8))
        picture.save(tmp_path / frames / "-abc" / f"{number + 1:04d}.jpg", quality=95)
    (tmp_path / sounds).mkdir()
    if suffix == ".wav":
        write_sound(tmp_path / sounds / "-abc.wav", np.stack([tone(10, RATE)]), RATE)
    else:
        np.save(tmp_path / sounds / "-abc.npy", tone(10, 32_000))
    folders = {"frames": ("video_frames", "frames"), "sounds": ("raw_audio", "wave")}
    clips = Clips(tmp_path, extracted=True, fps=3, videos=("AVE",), **folders)
    seen, there, heard, kept = Seconds(clips, Pixels(**VISION), LogMel(**AUDIO), fills=False).decode("-abc")
    assert there.all() and kept.all()
    assert seen.float().mean((1, 2, 3)).tolist() == pytest.approx([brightness(s) for s in range(10)], abs=2)
    window = torch.from_numpy(tone(1, RATE))[None]
    inner = (slice(1, -1), ..., slice(2, 90))  # resampling rings at the ends of the track
    assert torch.allclose(heard[inner], LogMel(**AUDIO)(window).expand_as(heard)[inner], atol=0.5)


@pytest.mark.parametrize(
    ("content", "message"),
    [(np.zeros((2, 5), np.float32), r"expected one row of fractions"), (np.zeros(5, np.int16), r"found int16")],
)
def test_an_array_that_is_no_sound_is_named(tmp_path: Path, content: np.ndarray, message: str):
    np.save(tmp_path / "a.npy", content)
    with pytest.raises(DataBroken, match=rf"a\.npy: .*{message}"):
        read_array(tmp_path / "a.npy", RATE)
    (tmp_path / "b.npy").write_bytes(b"no array")
    with pytest.raises(DataBroken, match=r"b\.npy is no numpy array"):
        read_array(tmp_path / "b.npy", RATE)


@pytest.mark.parametrize("suffix", [".wav", ".mp4"])
def test_a_sound_that_breaks_off_is_named(tmp_path: Path, suffix: str):
    codec = {"codec": "aac"} if suffix == ".mp4" else {}
    whole = write_sound(tmp_path / f"whole{suffix}", np.stack([tone(8, RATE)]), RATE, **codec)
    data = whole.read_bytes()
    broken = tmp_path / f"broken{suffix}"
    broken.write_bytes(data[: len(data) // 3])
    with pytest.raises(DataBroken, match=rf"broken{suffix}.*(cut off|breaks off)"):
        read_sound(broken, RATE)


@pytest.mark.parametrize(("mode", "colour"), [("L", 77), ("RGBA", (10, 77, 200, 128)), ("LA", (77, 0))])
def test_grey_and_transparent_pictures_are_what_they_show_without_transparency(tmp_path: Path, mode: str, colour):
    Image.new(mode, (9, 7), colour).save(tmp_path / "a.png")
    expected = [77, 77, 77] if mode != "RGBA" else [10, 77, 200]
    assert (read_rgb(tmp_path / "a.png") == np.array(expected, np.uint8)).all()
    resized = Pixels(**VISION).resize(read_rgb(tmp_path / "a.png")[None])
    assert resized.shape == (1, 3, 16, 16) and resized[0, :, 0, 0].tolist() == expected


def test_a_picture_of_one_pixel_is_resized(tmp_path: Path):
    Image.new("RGB", (1, 1), (9, 8, 7)).save(tmp_path / "dot.png")
    assert Pixels(**VISION).resize(read_rgb(tmp_path / "dot.png")[None])[0, :, 5, 5].tolist() == [9, 8, 7]
