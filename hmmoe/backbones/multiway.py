"""One sequence of two modalities (VLMo, BEiT-3): joint attention, then an FFN that may differ by position.

The streams of a site are slices of the sequence. Several pictures with one sentence are as many passes: S = B*T rows,
the sentence repeated in each (NLVR2 runs like this).
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from hmmoe.backbones.base import Backbone, Half, LinearPart, Roles, Store
from hmmoe.backbones.inputs import checked
from hmmoe.errors import ConfigError
from hmmoe.types import Batch, Features, Site, Stream


class MultiwayModel(nn.Module, ABC):
    """A transformer over one sequence, cut open between its FFN and the residual sum.

    Modules bear the names of the published checkpoint, and only what the joint pass of both modalities reads is held.
    """

    order: ClassVar[tuple[str, str]]
    """The modalities as they follow each other in the sequence."""

    roles: ClassVar[Roles]
    """As in ``Encoder``; {} in a path stands for the branch of a modality."""

    width: int
    depth: int

    @abstractmethod
    def block(self, k: int) -> nn.Module:
        """The k-th block."""

    @abstractmethod
    def branch(self, k: int, modality: str) -> str:
        """The checkpoint's name for the weights of block k that a modality runs through."""

    @abstractmethod
    def embed(
        self, vision: Float[Tensor, "S C H W"], ids: Int[Tensor, "S L"], keep: Bool[Tensor, "S L"], segments: int
    ) -> dict[str, Float[Tensor, "S _N D"]]:
        """Tokens by modality; of the S rows, ``segments`` in a row belong to one sample."""

    @abstractmethod
    def attend(
        self, k: int, x: Float[Tensor, "S N D"], keep: Bool[Tensor, "S N"], split: int
    ) -> Float[Tensor, "S N D"]:
        """The first half of block k: attention of all to all kept tokens, and the residual sum.

        ``split`` is the number of tokens of the first modality.
        """

    @abstractmethod
    def half(self, k: int, modality: str, residual: Float[Tensor, "S N D"]) -> Half:
        """The FFN of block k on one modality's slice; block k ends with ``residual + out``."""

    @abstractmethod
    def finish(self, modality: str, x: Float[Tensor, "S N D"]) -> Float[Tensor, "S N D"]:
        """The final norm of one modality's slice."""

    @abstractmethod
    def pool(self, modality: str, tokens: Float[Tensor, "S N D"]) -> Float[Tensor, "S D"]:
        """The vector that the authors' heads read."""

    def released(self) -> dict[str, Tensor]:
        """All tensors as ``weights`` reads them: under the names of the published checkpoint."""
        return self.state_dict()

    def linear(self, k: int, role: str, modality: str) -> LinearPart:
        """The linear layer of block k that plays ``role`` for a modality, named from this model."""
        if role not in self.roles:
            raise ConfigError(f"role {role!r} is unknown to {type(self).__name__}: choose from {sorted(self.roles)}")
        path, part, parts = self.roles[role]
        linear = self.block(k).get_submodule(path.format(self.branch(k, modality)))
        size = linear.weight.shape[0] // parts
        name = next(name for name, module in self.named_modules() if module is linear)
        return LinearPart(name, (part * size, (part + 1) * size) if parts > 1 else None)


class MultiwayState(NamedTuple):
    """Where the sequence stands. ``residual`` and ``halves`` are set while a site is open."""

    x: Float[Tensor, "S N D"]
    keep: Bool[Tensor, "S N"]
    mask: Bool[Tensor, "S N"]
    """Keys of the attention: ``keep``, and all of a row that keeps nothing."""

    split: int
    segments: int
    residual: Float[Tensor, "S N D"] | None = None
    halves: dict[str, Half] | None = None


class Multiway(Backbone):
    """A multiway transformer as a backbone of two modalities, one site per block.

    Args:
        model: the transformer.
        reads: modalities whose final features the head reads, None for both. At the last site the others are memory: a
            delta on them could not reach the loss any more.
        inputs: what each modality's input must look like (size, length, ...); checked on every batch.
        store: see ``Backbone.freeze``.

    Raises:
        ConfigError: ``reads`` names no modality of the model, or a batch that breaks ``inputs``.
    """

    def __init__(
        self,
        model: MultiwayModel,
        *,
        reads: Sequence[str] | None = None,
        inputs: Mapping[str, Mapping[str, Any]] | None = None,
        store: Store = "float32",
    ) -> None:
        super().__init__()
        self.model = model
        self.modalities = model.order
        self.reads = tuple(self.modalities if reads is None else reads)
        if not self.reads or not set(self.reads) <= set(self.modalities):
            raise ConfigError(f"backbone.reads must name some of {self.modalities} (null: both), found {self.reads}")
        self.inputs = {name: dict(spec) for name, spec in (inputs or {}).items()}
        self.widths = dict.fromkeys(self.modalities, model.width)
        unread = frozenset(self.modalities) - frozenset(self.reads)
        self.sites = tuple(
            Site(k, f"site{k:02d}", dict(self.widths), unread if k == model.depth - 1 else frozenset())
            for k in range(model.depth)
        )
        self.freeze(store)

    def embed(self, batch: Batch) -> MultiwayState:
        """Batch to the first hidden state: T pictures and a sentence are T rows."""
        vision, text = (checked(batch, m, self.modalities, self.inputs.get(m, {})) for m in ("vision", "text"))
        segments = vision.shape[1]
        ids, written = (text[key].repeat_interleave(segments, 0) for key in ("ids", "keep"))
        parts = self.model.embed(vision.flatten(0, 1), ids, written, segments)
        keeps = {"text": written, "vision": written.new_ones(parts["vision"].shape[:2])}
        given = batch.get("keep", {})
        if "text" in given:
            keeps["text"] = written & given["text"].any(1).repeat_interleave(segments, 0)[:, None]
        if "vision" in given:
            keeps["vision"] = keeps["vision"] & given["vision"].flatten()[:, None]
        keep = torch.cat([keeps[m] for m in self.modalities], 1)
        x = torch.cat([parts[m] for m in self.modalities], 1)
        mask = keep | ~keep.any(1, keepdim=True)
        return MultiwayState(x, keep, mask, parts[self.modalities[0]].shape[1], segments)

    def _slices(self, x: Tensor, split: int) -> dict[str, Tensor]:
        return dict(zip(self.modalities, x.split([split, x.shape[1] - split], 1), strict=True))

    def open(self, site: Site, state: MultiwayState) -> tuple[MultiwayState, dict[str, Stream]]:
        """Attention over the whole sequence, then the FFN of every slice."""
        residual = self.model.attend(site.index, state.x, state.mask, state.split)
        slices = self._slices(residual, state.split)
        halves = {m: self.model.half(site.index, m, part) for m, part in slices.items()}
        keeps = self._slices(state.keep, state.split)
        streams = {
            m: Stream(*half, keeps[m], memory=m in site.memory, rows=state.segments) for m, half in halves.items()
        }
        return state._replace(residual=residual, halves=halves), streams

    def close(self, site: Site, state: MultiwayState, outs: dict[str, Float[Tensor, "S _N _D"]]) -> MultiwayState:
        """Add the FFN outputs to the residual stream."""
        out = torch.cat([outs.get(m, state.halves[m].out) for m in self.modalities], 1)
        return state._replace(x=state.residual + out, residual=None, halves=None)

    def finish(self, state: MultiwayState) -> dict[str, Features]:
        """Final norms and pooled vectors, one segment per pass.

        A pass counts if it shows a picture, or anything where no pass of the sample shows one. The first token of each
        slice has seen the whole pass, so it counts even where its own modality is missing.
        """
        split = (-1, state.segments)
        keeps = {m: keep.unflatten(0, split) for m, keep in self._slices(state.keep, state.split).items()}
        shown = keeps["vision"].any(-1)
        counts = shown | (keeps["text"].any(-1) & ~shown.any(1, keepdim=True))
        features = {}
        for m, part in self._slices(state.x, state.split).items():
            tokens = self.model.finish(m, part)
            pooled = self.model.pool(m, tokens)
            keep = torch.cat((counts[..., None], keeps[m][..., 1:] & counts[..., None]), -1)
            features[m] = Features(tokens.unflatten(0, split), keep, pooled.unflatten(0, split))
        return features

    def linears(self, role: str) -> list[LinearPart]:
        """Linear layers of both modalities that play ``role``; one that both run through counts once.

        Left out in the last block: what only a modality outside ``reads`` runs through, all but its keys and values.
        """
        parts = dict.fromkeys(
            self.model.linear(k, role, m)
            for k in range(self.model.depth)
            for m in self.modalities
            if k < self.model.depth - 1 or m in self.reads or role in ("k", "v")
        )
        return [part._replace(name=f"model.{part.name}") for part in parts]

    def libraries(self) -> dict[str, tuple[str, nn.Module]]:
        """The transformer is one module, whose names are those of the published checkpoint."""
        return {"backbone": ("model.", self.model)}

    def publish(self, folder: Path) -> dict[str, Path]:
        """One torch file in the published checkpoint's layout, for ``backbone.model.weights``."""
        folder.mkdir(parents=True, exist_ok=True)
        torch.save({"model": self.model.released()}, folder / "backbone.pth")
        return {"backbone": folder / "backbone.pth"}
