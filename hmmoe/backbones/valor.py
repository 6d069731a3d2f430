"""VALOR (Chen et al., arXiv 2304.08345): towers for video and audio, then BERT that reads their tokens.

Base: Video Swin-base, AST-like audio, BERT-base; large: CLIP ViT-L/14 in place of Video Swin. The released JSON of the
base model names CLIP ViT-B/16, but its training script overrides that, so nothing here reads the JSON.

Sites
    With ``cross`` (question answering): first those of the video and audio towers, in lockstep, whose streams update
    each other; then one per BERT layer with the text as the only stream that is updated, and the finished video and
    audio tokens as memory.
    Without (retrieval, a dual encoder): the same tower sites, which mix sound and picture of one clip; then one per
    BERT layer with the text alone, so a method has single-modality experts there. No text ever meets a clip before the
    final product: N texts and N clips cost 2 N forward passes, not N * N.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from transformers.models.bert.modeling_bert import BertPredictionHeadTransform

from hmmoe.backbones.base import Backbone, Context, Encoder, Half, LinearPart, Store
from hmmoe.backbones.bert_cross import BertCross
from hmmoe.backbones.inputs import checked
from hmmoe.backbones.timm_vit import TimmViT
from hmmoe.backbones.towers import Towers, TowerState
from hmmoe.backbones.valor_weights import Layout, released, repeat_frames, translate
from hmmoe.backbones.weights import load_strictly, read_state
from hmmoe.errors import ConfigError
from hmmoe.types import Batch, Features, Site, Stream

MEMORIES = ("vision", "audio")


class ValorState(NamedTuple):
    """Where VALOR stands. ``seen`` and ``memory`` are empty until the towers are done."""

    lower: dict[str, TowerState]
    x: Tensor
    ctx: Context
    keep: Bool[Tensor, "B N"]
    frames: dict[str, int]
    seen: dict[str, Features]
    memory: dict[str, Stream]
    half: Half | None = None


class Bridge(nn.Module):
    """Tower tokens to BERT's memory: width where it differs, frame and type embeddings.

    Args:
        source: width of the tower.
        target: width of BERT.
        frames: most frames (slices of audio) of a sample.
    """

    def __init__(self, source: int, target: int, frames: int) -> None:
        super().__init__()
        fit = (nn.Linear(source, target), nn.LayerNorm(target, eps=1e-12))
        self.fit = nn.Identity() if source == target else nn.Sequential(*fit)
        self.frame_embedding = nn.Parameter(0.02 * torch.randn(1, frames, target))
        self.type_embedding = nn.Parameter(0.02 * torch.randn(1, 1, target))

    def forward(self, tokens: Float[Tensor, "B T N D"]) -> Float[Tensor, "B M W"]:
        """All tokens of a sample in one row."""
        count, most = tokens.shape[1], self.frame_embedding.shape[1]
        if count > most:
            raise ConfigError(
                f"{count} frames or slices of a sample, but VALOR has embeddings for {most}: let the data take fewer "
                "(data.segments)"
            )
        return (self.fit(tokens) + self.frame_embedding[:, :count, None]).flatten(1, 2) + self.type_embedding


class Valor(Backbone):
    """VALOR as a backbone of video, audio (optional) and text; the module's docstring says which sites exist.

    Features with ``cross``: the towers' tokens by frame, and BERT's tokens, pooled at the answer's mask. Without:
    what VALOR compares, after its contrastive heads (not normalised): one token per frame, one per slice of audio,
    all words, of which [CLS] is the pooled one.

    Args:
        towers: "vision" (``Swin3D`` of stride 1, or a CLIP ``TimmViT``), "audio" (``ValorAudio``; leave it out for data
            without sound), "text" (``BertCross``, whose ``cross`` decides the mode).
        weights: a released ``model_step_<n>.pt``, None for random ones.
        frames: most frames per sample (rows of the frame embeddings).
        trained: frames per sample in pretraining, by modality: VALOR gives all later frames the embedding of the last
            trained one. None takes the embeddings as they are stored.
        contrast: width of the contrastive heads.
        words: hold VALOR's own language-model head too (``predict``); only with ``cross``.
        inputs: what each modality's input must look like; checked on every batch.
        store: see ``Backbone.freeze``.

    Raises:
        ConfigError: towers that do not go together, a checkpoint that does not fit, a batch that breaks ``inputs``.
    """

    def __init__(
        self,
        towers: Mapping[str, Encoder],
        *,
        weights: str | None = None,
        frames: int = 32,
        trained: Mapping[str, int] | None = None,
        contrast: int = 512,
        words: bool = False,
        inputs: Mapping[str, Mapping[str, Any]] | None = None,
        store: Store = "float32",
    ) -> None:
        super().__init__()
        text = towers.get("text")
        if not isinstance(text, BertCross) or "vision" not in towers or set(towers) - {*MEMORIES, "text"}:
            raise ConfigError(
                "backbone.towers of VALOR are vision, audio (or none) and text, the last a BertCross; found "
                f"{ {name: type(tower).__name__ for name, tower in towers.items()} }"
            )
        if words and not text.cross:
            raise ConfigError("backbone.words=true needs backbone.towers.text.cross=true: else there are no answers")
        self.inputs = {name: dict(spec) for name, spec in (inputs or {}).items()}
        self.lower = Towers({m: towers[m] for m in MEMORIES if m in towers}, meet="sample", inputs=self.inputs)
        self.text = text
        self.cross = text.cross
        self.modalities = (*self.lower.modalities, "text")
        width = text.widths[-1]
        own = {m: self.lower.widths[m] for m in self.lower.modalities} | {"text": width}
        if self.cross:
            self.widths = own
            self.bridges = nn.ModuleDict({m: Bridge(own[m], width, frames) for m in self.lower.modalities})
        else:
            self.widths = dict.fromkeys(self.modalities, contrast)
            self.contrast = nn.ModuleDict({m: nn.Linear(d, contrast, bias=False) for m, d in own.items()})
        if words:
            config = text.library.config
            decoder = nn.Linear(width, config.vocab_size)
            decoder.weight = text.library.embeddings.word_embeddings.weight
            self.words = nn.ModuleDict({"transform": BertPredictionHeadTransform(config), "decoder": decoder})
        self.sites = (*self.lower.sites, *self._text_sites(text.widths))
        if weights is not None:
            self._load(weights, trained or {})
        self.freeze(store)

    def _text_sites(self, widths: Sequence[int]) -> list[Site]:
        first, memory = len(self.lower.sites), self.lower.modalities if self.cross else ()
        return [
            Site(first + k, f"site{first + k:02d}", {"text": width} | dict.fromkeys(memory, width), frozenset(memory))
            for k, width in enumerate(widths)
        ]

    def _load(self, weights: str, trained: Mapping[str, int]) -> None:
        state = repeat_frames(translate(read_state(weights), self._layout(), source=weights), trained)
        load_strictly(self, state, source=weights)

    def _layout(self) -> Layout:
        tower = self.lower.tower("vision")
        clip = tower.library if isinstance(tower, TimmViT) else None
        return Layout(clip, "audio" in self.lower.modalities, self.cross, hasattr(self, "words"))

    def embed(self, batch: Batch) -> ValorState:
        """Towers and text at their first hidden states.

        ``batch["text"]`` may hold ``answer`` (B, A): ids of the answer's slots instead of [CLS] [MASK].
        """
        lower = self.lower.embed(batch)
        text = checked(batch, "text", self.modalities, self.inputs.get("text", {}))
        keep, missing = text["keep"], batch.get("keep", {}).get("text")
        keep = keep if missing is None else keep & missing.flatten()[:, None]
        x, ctx = self.text.embed(text["ids"], keep, **({"answer": text["answer"]} if "answer" in text else {}))
        frames = {m: batch[m].shape[1] for m in self.lower.modalities}
        return ValorState(lower, x, ctx, ctx["keep"], frames, {}, {})

    def open(self, site: Site, state: ValorState) -> tuple[ValorState, dict[str, Stream]]:
        """A site of the towers, or a BERT layer."""
        if site.index < len(self.lower.sites):
            lower, streams = self.lower.open(self.lower.sites[site.index], state.lower)
            return state._replace(lower=lower), streams
        if not state.seen:
            state = self._remember(state)
        half = self.text.half(site.index - len(self.lower.sites), state.x, state.ctx)
        return state._replace(half=half), {"text": Stream(*half, state.keep)} | state.memory

    def _remember(self, state: ValorState) -> ValorState:
        """Finish the towers; with ``cross`` hand their tokens to BERT."""
        seen = {m: self._by_frame(m, state.frames[m], f) for m, f in self.lower.finish(state.lower).items()}
        if not self.cross:
            return state._replace(seen=seen)
        memory = {}
        for m, feature in seen.items():
            tokens = self.bridges[m](feature.tokens)
            keep = None if feature.keep is None else feature.keep.flatten(1)
            memory[m] = Stream(tokens, tokens, tokens, keep, memory=True, parts=state.frames[m])
        ctx = self.text.remember(state.ctx, torch.cat([s.out for s in memory.values()], 1), _joint_keep(memory))
        return state._replace(seen=seen, memory=memory, ctx=ctx)

    def _by_frame(self, modality: str, frames: int, features: Features) -> Features:
        """A clip's tokens, one segment of the towers, by frame; towers that see frames apart stay as they are."""
        tower = self.lower.tower(modality)
        if not tower.clips:
            return features
        tokens = features.tokens.squeeze(1).unflatten(1, (frames, -1))
        keep = None if features.keep is None else features.keep.squeeze(1).unflatten(1, (frames, -1))
        flat = None if keep is None else keep.flatten(0, 1)
        return Features(tokens, keep, tower.pool(tokens.flatten(0, 1), flat).unflatten(0, (-1, frames)))

    def close(self, site: Site, state: ValorState, outs: dict[str, Float[Tensor, "S _N _D"]]) -> ValorState:
        """Go on with the given FFN outputs."""
        if set(outs) & site.memory:
            raise ConfigError(f"no method may update {sorted(set(outs) & site.memory)}, the memory of {site.label}")
        if site.index < len(self.lower.sites):
            return state._replace(lower=self.lower.close(self.lower.sites[site.index], state.lower, outs))
        half = state.half._replace(out=outs.get("text", state.half.out))
        return state._replace(x=self.text.merge(site.index - len(self.lower.sites), half, state.ctx), half=None)

    def finish(self, state: ValorState) -> dict[str, Features]:
        """Features by modality, see the class."""
        tokens = self.text.finish(state.x, state.ctx)
        keep = state.keep[:, : tokens.shape[1]]
        features = state.seen | {
            "text": Features(tokens[:, None], keep[:, None], self.text.pool(tokens, keep)[:, None])
        }
        return features if self.cross else {m: self._compared(m, feature) for m, feature in features.items()}

    def _compared(self, modality: str, features: Features) -> Features:
        head = self.contrast[modality]
        if modality == "text":
            return features._replace(tokens=head(features.tokens), pooled=head(features.pooled))
        pooled = head(features.pooled)
        return Features(pooled[:, :, None], None if features.keep is None else features.keep[..., :1], pooled)

    def predict(self, tokens: Float[Tensor, "*B D"]) -> Float[Tensor, "*B vocabulary"]:
        """VALOR's own logits over its vocabulary at BERT tokens, such as those of the answer's slots."""
        return self.words["decoder"](self.words["transform"](tokens))

    def linears(self, role: str) -> list[LinearPart]:
        """Linear layers of all towers that play ``role``; in BERT those of self-attention and FFN."""
        parts = [part._replace(name=f"lower.{part.name}") for part in self.lower.linears(role)]
        return parts + [part._replace(name=f"text.{part.name}") for part in self.text.linears(role)]

    def publish(self, folder: Path) -> dict[str, Path]:
        """One torch file in the released layout, for ``backbone.weights``; towers alone would leave the bridges out."""
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(released(self.state_dict(), self._layout()), folder / "backbone.pt")
        return {"backbone": folder / "backbone.pt"}


def _joint_keep(memory: Mapping[str, Stream]) -> Bool[Tensor, "B M"] | None:
    """Masks of all memories side by side; None where nothing is missing."""
    if all(stream.keep is None for stream in memory.values()):
        return None
    whole = [torch.ones_like(stream.out[..., 0], dtype=torch.bool) for stream in memory.values()]
    return torch.cat([w if s.keep is None else s.keep for w, s in zip(whole, memory.values(), strict=True)], 1)
