"""The head of dual encoders: unit vectors, missing parts, the identity start, and no leak between the two sides."""

import math

import pytest
import torch

from hmmoe.errors import ConfigError
from hmmoe.heads.projection import CLIP, TEXT, ProjectionHead
from hmmoe.types import Features

WIDTHS = {"vision": 6, "audio": 4, "text": 5}


def features(seed: int = 0, **keeps: torch.Tensor) -> dict[str, Features]:
    torch.manual_seed(seed)
    made = {}
    for m, segments in (("vision", 3), ("audio", 2), ("text", 1)):
        tokens = torch.randn(2, segments, 4, WIDTHS[m])
        made[m] = Features(tokens, keeps.get(m), tokens.mean(2))
    return made


def test_both_vectors_have_length_one():
    vectors = ProjectionHead(WIDTHS, dim=8)(features())
    assert vectors.shape == (2, 2, 8)
    torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(2, 2))


def test_neither_side_sees_the_other():
    head = ProjectionHead(WIDTHS, dim=8)
    first, other = features(), features(1)
    mixed = head(first | {"text": other["text"]})
    assert torch.equal(mixed[:, CLIP], head(first)[:, CLIP])
    assert torch.equal(mixed[:, TEXT], head(other)[:, TEXT])


def test_a_clip_without_sound_is_its_picture():
    head = ProjectionHead(WIDTHS, dim=8)
    silent = features(audio=torch.zeros(2, 2, 4, dtype=torch.bool))
    loud = silent | {"audio": silent["audio"]._replace(pooled=silent["audio"].pooled + 9)}
    assert torch.equal(head(silent)[:, CLIP], head(loud)[:, CLIP])
    dark = silent | {"vision": silent["vision"]._replace(keep=torch.zeros(2, 3, 4, dtype=torch.bool))}
    assert not head(dark)[:, CLIP].any()


def test_missing_segments_do_not_count():
    head, keep = ProjectionHead(WIDTHS, dim=8), torch.tensor([True, False, True])[None, :, None].expand(2, 3, 4)
    given = features(vision=keep)
    changed = given["vision"].pooled.clone()
    changed[:, 1] += 5
    assert torch.equal(head(given), head(given | {"vision": given["vision"]._replace(pooled=changed)}))


def test_a_map_of_equal_width_starts_as_the_identity():
    head = ProjectionHead({"vision": 7, "text": 7}, dim=7)
    x = torch.randn(3, 1, 1, 7)
    vectors = head({"vision": Features(x, None, x[:, :, 0]), "text": Features(x, None, x[:, :, 0])})
    torch.testing.assert_close(vectors[:, TEXT], torch.nn.functional.normalize(x[:, 0, 0], dim=-1))


@pytest.mark.parametrize("learned", [True, False])
def test_the_temperature_stays_above_its_floor(learned: bool):
    head = ProjectionHead(WIDTHS, dim=8, temperature=0.05, learned=learned)
    assert head.temperature().item() == pytest.approx(0.05)
    assert ("log_temperature" in dict(head.named_parameters())) == learned
    if learned:
        torch.nn.init.constant_(head.log_temperature, math.log(1e-4))
        assert head.temperature().item() == pytest.approx(0.01)


@pytest.mark.parametrize(
    ("widths", "options", "message"),
    [
        ({"vision": 3, "audio": 3}, {}, r"retrieval needs text and another modality, the backbone has vision, audio"),
        (WIDTHS, {"temperature": 0.001}, r"task\.head\.temperature=0\.001"),
        (WIDTHS, {"dim": 0}, r"task\.head\.dim=0"),
    ],
)
def test_settings_that_cannot_work(widths, options, message):
    with pytest.raises(ConfigError, match=message):
        ProjectionHead(widths, **options)
