"""Hand-made datasets in the published layouts, written once a session; and a tokenizer of a few words."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from datamodules.mini.clip import write_clip
from datamodules.nlvr_corpus import BOX_LEFT, ORDERS

RATE = 16000
AUDIO = {"sample_rate": RATE, "mels": 16, "window_ms": 25, "shift_ms": 10, "frames": 96, "mean": -5.0, "std": 4.0}
VISION = {"size": 16, "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}


def brightness(second: int) -> int:
    """Grey value of the picture in a second of the hand-made clips."""
    return 20 + 20 * second


def hertz(second: int) -> int:
    """Pitch of a second of the hand-made clips."""
    return 300 + 300 * second


def clip(path: Path, *, seconds: int = 10, sound: bool = True) -> Path:
    """A video whose brightness and pitch tell the second."""
    pictures = np.stack([np.full((32, 48, 3), brightness(second), np.uint8) for second in range(seconds)])
    time = np.arange(RATE) / RATE
    tones = [0.3 * np.sin(2 * np.pi * hertz(second) * time) for second in range(seconds)]
    track = np.concatenate(tones).astype(np.float32) if sound else None
    write_clip(path, pictures, track, fps=4, sample_rate=RATE)
    return path


@pytest.fixture(scope="session")
def ave_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three videos: one whole with two events, one silent, one of six seconds whose name starts with a dash."""
    root = tmp_path_factory.mktemp("AVE_Dataset")
    (root / "AVE").mkdir()
    clip(root / "AVE" / "wholewhole0.mp4")
    clip(root / "AVE" / "silentsile0.mp4", sound=False)
    clip(root / "AVE" / "-shortshor0.mp4", seconds=6)
    rows = {
        "train": ["Banjo&wholewhole0&good&2&5", "Mandolin&wholewhole0&good&0&10"],
        "val": ["Race car, auto racing&silentsile0&good&8&10"],
        "test": ["Frying (food)&-shortshor0&good&0&0"],
    }
    for split, own in rows.items():
        (root / f"{split}Set.txt").write_text("\n".join(own) + "\n")
    every = ["Category&VideoID&Quality&StartTime&EndTime", *(row for own in rows.values() for row in own)]
    (root / "Annotations.txt").write_text("\n".join(every))
    return root


def nlvr_picture(group: int, member: int) -> np.ndarray:
    """A picture whose three boxes differ from each other and from those of other examples."""
    rng = np.random.default_rng((group, member))
    picture = np.full((100, 400, 3), 128, np.uint8)
    for left in BOX_LEFT:
        picture[:, left : left + 100] = rng.integers(0, 255, 3)
    return picture


def write_nlvr(root: Path, *, permutations: int = 1) -> Path:
    """Six groups of two examples per split; train and dev in six directories, one palette, one RGBA, one grey."""
    for split in ("train", "dev", "test", "hidden"):
        lines = []
        for group in range(6):
            for member in range(2):
                folder = root / split / "images" / str(group)
                folder.mkdir(parents=True, exist_ok=True)
                picture = nlvr_picture(group, member)
                boxes = [picture[:, left : left + 100] for left in BOX_LEFT]
                for k, order in enumerate(ORDERS[:permutations]):
                    moved = picture.copy()
                    for left, box in zip(BOX_LEFT, order, strict=True):
                        moved[:, left : left + 100] = boxes[box]
                    image = Image.fromarray(moved)
                    image = image.convert("RGBA") if k else image.quantize(16)
                    image.save(folder / f"{split}-{group}-{member}-{k}.png")
                row: dict[str, Any] = {
                    "sentence": f"There is a Box number {group % 3}",
                    "label": "true" if member == 0 or group < 2 else "false",
                    "identifier": f"{group}-{member}",
                }
                lines.append(json.dumps(row if split == "hidden" else row | {"directory": str(group)}))
        (root / split / f"{split}.json").write_text("\n".join(lines) + ("" if split == "dev" else "\n"))
    return root


@pytest.fixture(scope="session")
def nlvr_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """First box order only, as ``unpack.py`` writes it."""
    return write_nlvr(tmp_path_factory.mktemp("nlvr"))


@pytest.fixture(scope="session")
def nlvr_root_six(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All six box orders, as published."""
    return write_nlvr(tmp_path_factory.mktemp("nlvr_six"), permutations=6)


@pytest.fixture(scope="session")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Folder of a lower-casing word tokenizer."""
    words = ["[PAD]", "[UNK]", "there", "is", "a", "box", "number", "0", "1", "2"]
    plain = Tokenizer(models.WordLevel({word: row for row, word in enumerate(words)}, unk_token="[UNK]"))
    plain.normalizer, plain.pre_tokenizer = normalizers.Lowercase(), pre_tokenizers.Whitespace()
    folder = tmp_path_factory.mktemp("tokenizer")
    PreTrainedTokenizerFast(tokenizer_object=plain, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
    return str(folder)
