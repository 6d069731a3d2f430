"""Retrieval between sentences and clips, both ways, from features that were computed once each.

Ties: a wrong candidate that scores as much as the right one counts as if it were ahead of it, so a model that gives
everything the same score has the last rank, not the first. Where nothing ties, ranks are those of CLIP4Clip
(ArrowLuo/CLIP4Clip, metrics.py); where something does, that script counts a query once per tied place.
No dual softmax: a query's rank does not depend on the other queries.
"""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from jaxtyping import Float, Float32, Int64
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from hmmoe.errors import ConfigError
from hmmoe.metrics.consistency import group_number

Candidates = Literal["clips", "sentences"]
CUTS = (1, 5, 10)
CHUNK = 4096
"""Sentences whose scores are computed at once."""


class Ranking(NamedTuple):
    """S sentences and V clips by rising number; ranks count from 1."""

    sentences: Int64[Tensor, " S"]
    text_to_video: Int64[Tensor, " S"]
    first: Int64[Tensor, " S"]
    """Number of the clip that scores highest for every sentence."""
    clips: Int64[Tensor, " V"]
    video_to_text: Int64[Tensor, " V"]
    scores: Float32[Tensor, "S V"]


def text_ranks(scores: Float[Tensor, "S V"], owner: Int64[Tensor, " S"]) -> Int64[Tensor, " S"]:
    """Rank of every sentence's clip ``owner`` among all clips."""
    right = scores.gather(1, owner[:, None])
    return (scores >= right).sum(1)  # the right one is not below itself: it makes the count start at 1


def video_ranks(scores: Float[Tensor, "S V"], owner: Int64[Tensor, " S"], among: Candidates) -> Int64[Tensor, " V"]:
    """Rank of every clip's best sentence.

    Args:
        scores: of all pairs.
        owner: the clip of every sentence; each clip has one at least.
        among: "clips" lets every clip stand with its best sentence only (CLIP4Clip on MSVD), "sentences" counts each
            wrong sentence ahead (VALOR); equal where every clip has one sentence.
    """
    clips = scores.shape[1]
    best = scores.new_full((clips, clips), float("-inf"))  # [owner of the sentence, clip that asks]
    best.scatter_reduce_(0, owner[:, None].expand_as(scores), scores, "amax")
    right = best.diagonal()
    if among == "clips":
        return (best >= right).sum(0)
    own = torch.zeros_like(best, dtype=torch.int64)
    own.scatter_add_(0, owner[:, None].expand_as(scores), (scores >= right).long())
    return (scores >= right).sum(0) - own.diagonal() + 1


class Retrieval(Metric):
    """R@1, R@5 and R@10 (shares, 0..1), median and mean rank, sentence to clip (t2v) and clip to sentence (v2t).

    Features go in once per sentence and once per clip, in any batches, on any rank, a clip's sentences not necessarily
    with it. The result is the same to the last bit for any order. Scores are products in float64, rounded to float32:
    equal features tie however the products were blocked.

    Args:
        among: what a clip's sentence is ranked among, see ``video_ranks``.
    """

    full_state_update = False
    higher_is_better = None
    texts: list[Tensor]
    sentences: list[Tensor]
    owners: list[Tensor]
    videos: list[Tensor]
    clips: list[Tensor]

    def __init__(self, among: Candidates = "clips") -> None:
        super().__init__()
        if among not in ("clips", "sentences"):
            raise ConfigError(f"task.among must be clips or sentences, not {among!r}")
        self.among = among
        for state in ("texts", "sentences", "owners", "videos", "clips"):
            self.add_state(state, [], dist_reduce_fx="cat")

    def update(
        self,
        texts: Float[Tensor, "S D"],
        sentences: Sequence[str],
        owners: Sequence[str],
        videos: Float[Tensor, "V D"],
        clips: Sequence[str],
    ) -> None:
        """Add sentences (with their own names and those of their clips) and clips.

        Raises:
            ValueError: not one name per feature.
        """
        if not len(texts) == len(sentences) == len(owners) or len(videos) != len(clips):
            raise ValueError(
                f"one name per feature: found {len(sentences)} sentences of {len(owners)} clips for {len(texts)} texts "
                f"and {len(clips)} clips for {len(videos)} videos"
            )
        self.texts.append(texts.detach().float())
        self.videos.append(videos.detach().float())
        for state, names in ((self.sentences, sentences), (self.owners, owners), (self.clips, clips)):
            numbers = torch.tensor([group_number(name) for name in names], dtype=torch.int64)
            state.append(numbers.to(texts.device))

    def ranking(self) -> Ranking:
        """Ranks of everything seen; of all ranks inside ``sync_context``.

        Raises:
            ValueError: a sentence without its clip, or a clip without a sentence.
        """
        sentences, texts, owners = _distinct(self.sentences, self.texts, self.owners)
        clips, videos = _distinct(self.clips, self.videos)
        place = torch.searchsorted(clips, owners).clamp(max=len(clips) - 1)
        if not torch.equal(clips[place], owners) or len(place.unique()) != len(clips):
            raise ValueError(
                f"every sentence needs its clip and every clip a sentence: found {len(clips)} clips and sentences of "
                f"{len(owners.unique())}"
            )
        scores = torch.cat([_scores(part, videos) for part in texts.split(CHUNK)])
        to_text = video_ranks(scores, place, self.among)
        return Ranking(sentences, text_ranks(scores, place), clips[scores.argmax(1)], clips, to_text, scores)

    def compute(self) -> dict[str, Tensor]:
        """t2v_R1, t2v_R5, t2v_R10, t2v_MedR, t2v_MeanR and the same for v2t."""
        found = self.ranking()
        return _summary("t2v", found.text_to_video) | _summary("v2t", found.video_to_text)


Parts = list[Tensor] | Tensor
"""A state: batches, or one tensor once all ranks' are gathered."""


def _distinct(names: Parts, *columns: Parts) -> tuple[Tensor, ...]:
    """Rows by rising name, each name once, on the CPU: other devices may lack float64."""
    whole, *rest = (dim_zero_cat(part).cpu() for part in (names, *columns))
    order = whole.argsort(stable=True)
    first = torch.ones_like(order, dtype=torch.bool)
    first[1:] = whole[order][1:] != whole[order][:-1]
    return tuple(part[order[first]] for part in (whole, *rest))


def _scores(texts: Float32[Tensor, "s D"], videos: Float32[Tensor, "V D"]) -> Float32[Tensor, "s V"]:
    return (texts.double() @ videos.double().T).float()


def _summary(direction: str, ranks: Int64[Tensor, " n"]) -> dict[str, Tensor]:
    """The median of an even number of ranks is the mean of the middle two, as in CLIP4Clip."""
    exact = ranks.double()
    scores = {f"{direction}_R{cut}": (ranks <= cut).double().mean() for cut in CUTS}
    scores |= {f"{direction}_MedR": exact.quantile(0.5), f"{direction}_MeanR": exact.mean()}
    return {name: score.float() for name, score in scores.items()}
