"""Which words, and which patches of pictures, go to which expert: gathered batch by batch, kept small on disk."""

import math
from collections.abc import Callable, Sequence

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from hmmoe.analysis.token_files import TILE, Example
from hmmoe.types import Routing

MOST_PREFIX = 8
"""Class and register tokens before a grid; more left over means that the tokens are no square grid of patches."""


class Words:
    """Mean share of every expert for every entry of the vocabulary, at one site.

    Args:
        size: of the vocabulary.
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._sums: Tensor | None = None
        self._counts: Tensor | None = None
        self._of: Routing | None = None

    def update(self, routing: Routing, ids: Int[Tensor, "B L"]) -> None:
        """Count one batch; nothing where the stream's tokens are not those of the sentence."""
        if routing.expert_weights.shape[:2] != ids.shape:
            return
        shares = _shares(routing)
        if self._sums is None or self._counts is None:
            self._sums = torch.zeros(self.size, shares.shape[-1], device=shares.device)
            self._counts = torch.zeros(self.size, device=shares.device)
            self._of = routing
        keep = torch.ones_like(shares[..., 0]) if routing.keep is None else routing.keep.to(shares.dtype)
        self._sums.index_add_(0, ids.flatten(), (shares * keep.unsqueeze(-1)).flatten(0, 1))
        self._counts.index_add_(0, ids.flatten(), keep.flatten())

    def examples(
        self, site: str, name: Callable[[int], str], *, top: int, least: int, without: Sequence[int]
    ) -> list[Example]:
        """The words with the highest mean share of every expert.

        Args:
            site: label.
            name: id to word.
            top: words per expert.
            least: occurrences below which a mean is no mean.
            without: ids to leave out, such as special tokens.
        """
        if self._sums is None or self._counts is None or self._of is None:
            return []
        counts = self._counts.cpu()
        means = self._sums.cpu() / counts.clamp(min=1).unsqueeze(-1)
        overall = self._sums.cpu().sum(0) / counts.sum().clamp(min=1)
        common = counts >= least
        common[[i for i in without if i < self.size]] = False
        found = []
        for group, expert, column in experts(self._of):
            values = torch.where(common, means[:, column], torch.full((), -1.0))
            best = values.topk(min(top, int(common.sum())))
            for rank, (share, i) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
                told = (name(i), share, float(overall[column]), int(counts[i]), "", None)
                found.append(Example(site, "text", group, expert, rank, *told))
        return found


class Patches:
    """The patches with the highest share of every expert at one site, at most one of every picture.

    Args:
        top: patches per expert.
    """

    def __init__(self, top: int) -> None:
        self.top = top
        self._best: dict[tuple[str, int], list[tuple[float, str, np.ndarray]]] = {}
        self._sum: Tensor | None = None
        self._tokens = 0
        self._of: Routing | None = None

    def update(self, routing: Routing, vision: Float[Tensor, "B T 3 H W"], names: Sequence[str]) -> None:
        """Look at one batch; nothing where the tokens are no square grid over every picture.

        Args:
            routing: of the vision stream, S = B*T rows of a picture each, or B rows of T pictures in order.
            vision: values in 0..1.
            names: ids of the samples.
        """
        size, pictures = vision.shape[:2]
        each, rest = divmod(math.prod(routing.expert_weights.shape[:2]), size * pictures)
        side = math.isqrt(each)
        prefix = each - side * side
        if rest or side < 2 or prefix > MOST_PREFIX:
            return
        shares = _shares(routing).reshape(size * pictures, each, -1)[:, prefix:]
        if routing.keep is not None:
            shares = shares * routing.keep.reshape(size * pictures, each, 1)[:, prefix:]
        self._of = self._of or routing
        total = shares.sum((0, 1))
        self._sum, self._tokens = (
            total if self._sum is None else self._sum + total,
            self._tokens + side * side * len(shares),
        )
        highest, place = shares.max(1)
        best = highest.topk(min(self.top, len(highest)), dim=0)
        cells = place.gather(0, best.indices)
        table = zip(best.values.T.tolist(), best.indices.T.tolist(), cells.T.tolist(), strict=True)
        columns = list(table)
        for group, expert, column in experts(routing):
            for share, index, cell in zip(*columns[column], strict=True):
                sample, segment = divmod(index, pictures)
                kept = self._best.setdefault((group, expert), [])
                if len(kept) < self.top or share > kept[-1][0]:
                    tile = crop(vision[sample, segment], divmod(cell, side), side)
                    where = f"picture {segment}, row {cell // side + 1}, column {cell % side + 1} of {side}"
                    kept.append((share, f"{names[sample]}\t{where}", tile))
                    kept.sort(key=lambda one: -one[0])
                    del kept[self.top :]

    def examples(self, site: str, first: int) -> tuple[list[Example], list[np.ndarray]]:
        """Rows, and their crops, numbered from ``first``."""
        if self._of is None or self._sum is None:
            return [], []
        found, tiles = [], []
        overall = (self._sum / max(self._tokens, 1)).tolist()
        for group, expert, column in experts(self._of):
            for rank, (share, told, tile) in enumerate(self._best.get((group, expert), [])):
                name, where = told.split("\t")
                place = (site, "vision", group, expert, rank)
                found.append(Example(*place, where, share, overall[column], 1, name, first + len(tiles)))
                tiles.append(tile)
        return found, tiles


def experts(routing: Routing) -> list[tuple[str, int, int]]:
    """(group, expert, column of the flattened weights) of all experts that exist."""
    most = routing.expert_weights.shape[-1]
    return [
        (group, expert, g * most + expert)
        for g, (group, size) in enumerate(zip(routing.groups, routing.sizes, strict=True))
        for expert in range(size)
    ]


def _shares(routing: Routing) -> Float[Tensor, "S N _X"]:
    """What part of every token's weight goes to each expert; sums to one."""
    weights = routing.weights.flatten(2)
    return weights / weights.sum(-1, keepdim=True).clamp(min=torch.finfo(weights.dtype).tiny)


def crop(picture: Float[Tensor, "3 H W"], cell: tuple[int, int], side: int) -> np.ndarray:
    """The patch in the middle with one patch of surroundings, grey beyond the edge; (TILE, TILE, 3) uint8."""
    height, width = (length // side for length in picture.shape[1:])
    padded = F.pad(picture.float(), (width, width, height, height), value=0.5)
    y, x = cell[0] * height, cell[1] * width
    cut = padded[:, y : y + 3 * height, x : x + 3 * width]
    tile = F.interpolate(cut[None], size=(TILE, TILE), mode="nearest")[0]
    return (tile.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
