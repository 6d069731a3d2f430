"""Decoding: the right moment, and messages for files that are not what they should be."""

from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image
from transformers import ASTFeatureExtractor, ClapFeatureExtractor, WhisperFeatureExtractor

from datamodules.media.audio import read_sound
from datamodules.media.image import Pixels, read_rgb
from datamodules.media.logmel import LogMel
from datamodules.media.text import Text
from datamodules.media.video import read_frames
from datamodules.mini.clip import write_clip
from hmmoe.errors import ConfigError, DataBroken, DataMissing
from tests.datamodules.conftest import AUDIO, RATE, VISION, brightness, clip, hertz

MIDPOINTS = [second + 0.5 for second in range(10)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return clip(tmp_path_factory.mktemp("media") / "whole.mp4")


def moov_first(source: Path, target: Path) -> Path:
    """The same streams with the index at the front, so that the file opens even when its end is gone."""
    with av.open(str(source)) as old, av.open(str(target), "w", options={"movflags": "faststart"}) as new:
        streams = {stream.index: new.add_stream_from_template(stream) for stream in old.streams}
        for packet in old.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                new.mux(packet)
    return target


def test_frames_are_those_of_the_asked_seconds(whole: Path):
    frames, kept = read_frames(whole, MIDPOINTS)
    assert frames.shape == (10, 32, 48, 3)
    assert frames.dtype == np.uint8
    assert kept.all()
    assert frames.mean(axis=(1, 2, 3)) == pytest.approx([brightness(second) for second in range(10)], abs=4)


def test_seconds_after_the_end_are_not_kept(tmp_path: Path):
    frames, kept = read_frames(clip(tmp_path / "short.mp4", seconds=6), MIDPOINTS)
    assert kept.tolist() == [True] * 7 + [False] * 3  # up to a second past the end counts as the same picture
    assert not frames[~kept].any()


def test_sound_is_beside_its_second(whole: Path):
    sound = read_sound(whole, RATE)
    assert sound.dtype == np.float32
    for second in range(10):
        spectrum = np.abs(np.fft.rfft(sound[second * RATE : (second + 1) * RATE]))
        assert spectrum.argmax() == pytest.approx(hertz(second), abs=2)


def test_sound_is_not_delayed_by_its_codec(tmp_path: Path):
    """AAC puts 1024 samples of priming in front: they must be gone."""
    sound = np.random.default_rng(0).normal(0, 0.1, RATE).astype(np.float32)
    write_clip(tmp_path / "noise.mp4", np.zeros((1, 32, 32, 3), np.uint8), sound, fps=4, sample_rate=RATE)
    read = read_sound(tmp_path / "noise.mp4", RATE)[:RATE]
    spectrum = np.fft.rfft(sound, 2 * RATE).conj() * np.fft.rfft(read, 2 * RATE)
    assert np.fft.irfft(spectrum).argmax() == 0


def test_sound_is_resampled_and_may_be_absent(whole: Path, tmp_path: Path):
    assert len(read_sound(whole, 8000)) == pytest.approx(80_000, rel=0.01)
    assert read_sound(clip(tmp_path / "silent.mp4", sound=False), RATE) is None


@pytest.mark.parametrize("front", [True, False], ids=["index first", "index last"])
def test_a_truncated_video_is_named(whole: Path, tmp_path: Path, front: bool):
    data = (moov_first(whole, tmp_path / "front.mp4") if front else whole).read_bytes()
    broken = tmp_path / "broken.mp4"
    broken.write_bytes(data[: len(data) // 2])
    for read in (lambda: read_frames(broken, MIDPOINTS), lambda: read_sound(broken, RATE)):
        with pytest.raises(DataBroken, match=r"broken\.mp4.*(cut off|breaks off).*fetch this file again"):
            read()


def test_files_that_are_no_videos_are_named(tmp_path: Path):
    (tmp_path / "empty.mp4").touch()
    (tmp_path / "text.mp4").write_text("<html>video unavailable</html>")
    with pytest.raises(DataBroken, match=r"empty\.mp4 is empty"):
        read_frames(tmp_path / "empty.mp4", MIDPOINTS)
    with pytest.raises(DataBroken, match=r"text\.mp4 is cut off or damaged"):
        read_sound(tmp_path / "text.mp4", RATE)
    with pytest.raises(DataMissing, match=r"no media file at .*gone\.mp4.*data\.root"):
        read_frames(tmp_path / "gone.mp4", MIDPOINTS)


def test_a_file_with_sound_only_has_no_frames(tmp_path: Path):
    with av.open(str(tmp_path / "tone.mp4"), "w") as container:
        track = container.add_stream("aac", rate=RATE, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, RATE), np.float32), format="fltp", layout="mono")
        frame.sample_rate = RATE
        container.mux(track.encode(frame))
        container.mux(track.encode(None))
    with pytest.raises(DataBroken, match=r"tone\.mp4 has no video stream.*data\.missing=drop"):
        read_frames(tmp_path / "tone.mp4", MIDPOINTS)


@pytest.mark.filterwarnings("ignore:At least one mel filter has all zero values")  # AST's own 128 have one too
@pytest.mark.parametrize("mels, frames", [(64, 96), (128, 102)])
def test_log_mel_equals_the_ast_extractor(mels: int, frames: int):
    """Within 2e-3 in logarithms that span about 16, silence and loud tones included."""
    rng = np.random.default_rng(0)
    time = np.arange(RATE) / RATE
    sound = np.stack([rng.normal(0, 0.1, RATE), 0.5 * np.sin(2 * np.pi * 440 * time), np.zeros(RATE)]).astype(
        np.float32
    )
    ours = LogMel(**AUDIO | {"mels": mels, "frames": frames})(torch.from_numpy(sound))
    extractor = ASTFeatureExtractor(num_mel_bins=mels, max_length=frames, mean=AUDIO["mean"], std=AUDIO["std"])
    theirs = extractor(list(sound), sampling_rate=RATE, return_tensors="pt")["input_values"]
    assert ours.shape == (3, 1, mels, frames)
    assert (ours[:, 0].transpose(1, 2) - theirs).abs().max() * 2 * AUDIO["std"] < 2e-3


def test_log_mel_pads_with_zeros_before_normalising():
    logmel = LogMel(**AUDIO | {"frames": 120})
    picture = logmel(torch.randn(2, RATE))
    assert picture.shape == (2, 1, 16, 120)
    assert torch.all(picture[..., 98:] == 5.0 / 8.0)
    assert logmel(torch.zeros(2, 10)).eq(5.0 / 8.0).all()  # shorter than one frame


PLAIN = {"mean": 0.0, "std": 0.5, "shift_ms": 10}


def test_log_mel_equals_the_whisper_extractor():
    sound = 0.1 * torch.randn(2, RATE, generator=torch.Generator().manual_seed(0))
    logmel = LogMel(
        sample_rate=RATE, mels=80, window_ms=25, frames=100, low_hz=0, high_hz=8000, scale="whisper", **PLAIN
    )
    extractor = WhisperFeatureExtractor(feature_size=80, chunk_length=1)
    theirs = extractor(list(sound.numpy()), sampling_rate=RATE, return_tensors="pt")["input_features"]
    torch.testing.assert_close(logmel(sound)[:, 0], theirs, rtol=0, atol=1e-4)


def test_log_mel_equals_the_clap_extractor():
    sound = 0.1 * torch.randn(1, 48000, generator=torch.Generator().manual_seed(0))
    sizes = {"mels": 64, "window_ms": 21.3334, "frames": 101, "low_hz": 50, "high_hz": 14000}
    logmel = LogMel(sample_rate=48000, scale="decibel", **sizes, **PLAIN)
    extractor = ClapFeatureExtractor(
        truncation="rand_trunc", max_length_s=1, frequency_min=50, frequency_max=14000, padding="pad"
    )
    theirs = extractor(sound[0].numpy(), sampling_rate=48000, return_tensors="pt")[
        "input_features"
    ]  # (1, 1, time, mel)
    torch.testing.assert_close(logmel(sound).transpose(2, 3), theirs, rtol=0, atol=2e-3)


@pytest.mark.parametrize("scale", ["decibel", "whisper"])
def test_a_scrap_of_sound_is_no_crash(scale: str):
    assert LogMel(**AUDIO | {"scale": scale})(torch.zeros(2, 10)).isfinite().all()


def test_log_mel_refuses_unknown_scales(unchecked):
    with pytest.raises(ConfigError, match="scale must be kaldi, decibel or whisper, not 'mel'"):
        LogMel(**AUDIO | {"scale": "mel"})


def test_log_mel_refuses_impossible_sizes():
    with pytest.raises(ConfigError, match=r"backbone\.inputs\.audio.*frames=0"):
        LogMel(**AUDIO | {"frames": 0})


@pytest.mark.parametrize("mode", ["P", "RGBA", "L", "LA", "1", "CMYK", "I;16"])
def test_every_picture_mode_becomes_rgb(tmp_path: Path, mode: str):
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    if mode == "I;16":
        Image.fromarray(np.full((4, 6), 204 * 257, np.uint16)).save(path)
    else:
        Image.new("RGB", (6, 4), (204, 204, 204) if mode != "1" else (255, 255, 255)).convert(mode).save(path)
    pixels = read_rgb(path)
    assert pixels.shape == (4, 6, 3)
    assert pixels.dtype == np.uint8
    assert np.abs(pixels.astype(int) - (255 if mode == "1" else 204)).max() <= 2


def test_broken_pictures_are_named(tmp_path: Path):
    Image.new("RGB", (64, 64)).save(tmp_path / "a.png")
    data = (tmp_path / "a.png").read_bytes()
    (tmp_path / "a.png").write_bytes(data[: len(data) // 2])
    with pytest.raises(DataBroken, match=r"a\.png is not a whole picture"):
        read_rgb(tmp_path / "a.png")
    with pytest.raises(DataMissing, match=r"no picture at .*b\.png"):
        read_rgb(tmp_path / "b.png")


def test_pixels_are_resized_and_normalised():
    pixels = Pixels(**VISION | {"mean": [0.0, 0.5, 1.0], "std": [1.0, 0.5, 0.25]})
    resized = pixels.resize(np.full((2, 40, 20, 3), 255, np.uint8))
    assert resized.shape == (2, 3, 16, 16)
    assert pixels.normalise(resized)[:, :, 3, 3] == pytest.approx(np.array([[1.0, 1.0, 0.0]] * 2), abs=1e-6)
    with pytest.raises(ConfigError, match=r"backbone\.inputs\.vision.*std=\[1, 1, 0\]"):
        Pixels(size=8, mean=[0, 0, 0], std=[1, 1, 0])


def test_text_has_a_fixed_length(tokenizer: str, caplog: pytest.LogCaptureFixture):
    ids, keep = Text(tokenizer=tokenizer, length=4).encode(["There is a box number 1", "a BOX"])
    assert ids.tolist() == [[2, 3, 4, 5], [4, 5, 0, 0]]
    assert keep.tolist() == [[True] * 4, [True, True, False, False]]
    assert "1 of 2 sentences are cut at backbone.inputs.text.length=4" in caplog.text


def test_a_missing_tokenizer_is_named(tmp_path: Path):
    with pytest.raises(ConfigError, match=r"no tokenizer at backbone\.inputs\.text\.tokenizer=.*gone"):
        Text(tokenizer=str(tmp_path / "gone"), length=4)
