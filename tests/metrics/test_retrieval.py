"""Ranks of retrieval: by hand, with ties, several sentences per clip, in any order and on any rank."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from hmmoe.errors import ConfigError
from hmmoe.metrics.consistency import group_number
from hmmoe.metrics.retrieval import Retrieval, text_ranks, video_ranks
from tests.ranks import run_ranks

SCORES = torch.tensor([[0.9, 0.5, 0.1], [0.8, 0.2, 0.3], [0.1, 0.6, 0.7], [0.4, 0.65, 0.3]])
OWNER = torch.tensor([0, 1, 2, 1])
"""Four sentences on three clips; the second and the fourth are on clip 1."""


def of_scores(scores: Tensor, *, among: str = "clips") -> dict[str, float]:
    """A metric whose features make a square matrix of scores."""
    metric, names = Retrieval(among), [f"c{i}" for i in range(len(scores))]
    metric.update(scores, [f"s{i}" for i in range(len(scores))], names, torch.eye(len(scores)), names)
    return {name: score.item() for name, score in metric.compute().items()}


def features(seed: int = 0) -> tuple[Tensor, list[str], list[str], Tensor, list[str]]:
    """Eleven sentences on five clips."""
    generator = torch.Generator().manual_seed(seed)
    texts, videos = torch.randn(11, 6, generator=generator), torch.randn(5, 6, generator=generator)
    owners = [f"c{i % 5}" for i in range(11)]
    return texts, [f"s{i}" for i in range(11)], owners, videos, [f"c{i}" for i in range(5)]


def fed(sentences: list[list[int]], clips: list[list[int]], *, among: str = "clips") -> dict[str, float]:
    metric = Retrieval(among)
    texts, names, owners, videos, labels = features()
    for some, seen in zip(sentences, clips, strict=True):
        metric.update(
            texts[some], [names[i] for i in some], [owners[i] for i in some], videos[seen], [labels[i] for i in seen]
        )
    return {name: score.item() for name, score in metric.compute().items()}


def test_ranks_by_hand():
    assert text_ranks(SCORES, OWNER).tolist() == [1, 3, 1, 1]
    # Clip 0 hears 0.9 from its own, 1 hears 0.65 at best, 2 hears 0.7.
    assert video_ranks(SCORES, OWNER, "clips").tolist() == [1, 1, 1]
    assert video_ranks(SCORES, torch.tensor([1, 0, 2, 1]), "clips").tolist() == [2, 1, 1]
    one_clip_ahead_twice = torch.tensor([[0.9, 0.0], [0.8, 0.0], [0.5, 1.0]])
    owner = torch.tensor([1, 1, 0])
    assert video_ranks(one_clip_ahead_twice, owner, "clips").tolist() == [2, 2]
    assert video_ranks(one_clip_ahead_twice, owner, "sentences").tolist() == [3, 2]


def test_equal_scores_give_the_last_rank():
    scores = of_scores(torch.zeros(8, 8))
    assert scores["t2v_MeanR"] == scores["v2t_MedR"] == 8 and scores["t2v_R5"] == 0.0 and scores["v2t_R10"] == 1.0


def test_one_tie_counts_as_one_ahead():
    scores = torch.eye(3)
    scores[0, 2] = 1.0
    assert text_ranks(scores, torch.arange(3)).tolist() == [2, 1, 1]


def test_scores_are_shares_and_the_median_lies_between_the_middle_two():
    ranks = torch.tensor([1, 2, 6, 11])
    matrix = torch.zeros(12, 12)
    for row in range(12):
        matrix[row] = -torch.arange(12.0)
        matrix[row, row] = 0.5 - (ranks[row % 4] - 1) + (row < ranks[row % 4] - 1)
    found = of_scores(matrix)
    expected = text_ranks(matrix, torch.arange(12)).double()
    assert found["t2v_R5"] == pytest.approx((expected <= 5).double().mean().item(), abs=1e-6)
    assert found["t2v_MedR"] == pytest.approx(np.median(expected.numpy()))
    assert found["t2v_MeanR"] == pytest.approx(expected.mean().item(), abs=1e-6)


@pytest.mark.parametrize("among", ["clips", "sentences"])
@pytest.mark.parametrize(
    ("sentences", "clips"),
    [
        ([[10, 3, 5], [], [0, 1, 2, 4, 9, 8, 7, 6]], [[4], [0, 2], [3, 1]]),
        ([[i] for i in range(11)], [[i] if i < 5 else [] for i in range(11)]),
    ],
)
def test_order_and_batches_do_not_matter(sentences, clips, among):
    assert fed(sentences, clips, among=among) == fed([list(range(11))], [list(range(5))], among=among)


def test_every_clip_and_sentence_counts_once():
    assert fed([list(range(11)), [3, 4]], [list(range(5)), [2]]) == fed([list(range(11))], [list(range(5))])


@pytest.mark.parametrize(("sentences", "clips"), [([0, 1, 2, 3, 4], [0, 1, 2, 3]), ([0, 1], [0, 1, 2])])
def test_what_belongs_to_nothing_is_named(sentences, clips):
    with pytest.raises(ValueError, match="every sentence needs its clip"):
        fed([sentences], [clips])


def test_names_and_features_must_match():
    with pytest.raises(ValueError, match=r"one name per feature: found 1 sentences of 2 clips for 2 texts"):
        Retrieval().update(torch.ones(2, 3), ["a"], ["c", "c"], torch.ones(1, 3), ["c"])


def test_an_unknown_protocol_is_named(unchecked):
    with pytest.raises(ConfigError, match=r"task\.among must be clips or sentences"):
        Retrieval("videos")


def test_two_ranks_with_unequal_shares():
    def one_rank(rank: int) -> dict[str, float]:
        metric = Retrieval()
        texts, names, owners, videos, labels = features()
        some, seen = (slice(0, 3), slice(0, 4)) if rank == 0 else (slice(3, 11), slice(4, 5))
        metric.update(texts[some], names[some], owners[some], videos[seen], labels[seen])
        with metric.sync_context():
            assert metric.ranking().clips.tolist() == sorted(group_number(label) for label in labels)
        return {name: score.item() for name, score in metric.compute().items()}

    assert run_ranks(one_rank) == [fed([list(range(11))], [list(range(5))])] * 2


@pytest.mark.real
def test_ranks_equal_clip4clips():
    folder = os.environ.get("HMMOE_REAL_DATA")
    path = Path(folder or "", "golden", "retrieval_clip4clip.json")
    if not folder or not path.is_file():
        pytest.skip("set HMMOE_REAL_DATA to the folder that has golden/retrieval_clip4clip.json")
    golden = json.loads(path.read_text())
    found = of_scores(torch.tensor(golden["sim"], dtype=torch.float64))
    for direction in ("t2v", "v2t"):
        given = golden[direction]
        for cut in (1, 5, 10):
            assert 100 * found[f"{direction}_R{cut}"] == pytest.approx(given[f"R{cut}"], abs=1e-4)
        assert found[f"{direction}_MedR"] == given["MedianR"]
        assert found[f"{direction}_MeanR"] == pytest.approx(given["MeanR"], abs=1e-6)
