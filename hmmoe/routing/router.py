"""Two-level routing (HMMoE, arXiv 2503.20633, section III-E) and the controls that it must be compared with.

Logits and softmax are float32 whatever the autocast: in bf16 about 0.3 % of the selections flip.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from hmmoe.errors import ConfigError
from hmmoe.masked import masked_mean
from hmmoe.routing.inputs import Granularity, pool_rows, spread
from hmmoe.routing.linear import WideLinear
from hmmoe.routing.selectors import top_k
from hmmoe.routing.steered import Steered
from hmmoe.types import Routing, Stream

Mode = Literal["two_level", "flat", "fixed", "uniform", "random"]


class Router(Steered):
    """Weights of the groups and of the experts inside each group, for one stream at one site.

    two_level  w_g = softmax over groups; w_ge = softmax over the group's experts, the k largest kept.
    flat       one softmax over all experts of all groups; as many kept as two_level would keep.
    fixed      two_level with learned constants in place of a function of the input.
    uniform    1/G and 1/E_g, nothing learned, nothing dropped.
    random     in training w_g = 1/G and k random experts with weight 1/k; in eval its expectation, uniform.

    Logits are linear in the stream's own tokens (pooled to ``granularity``) plus the masked mean of every other
    stream's row: with token granularity and two streams this is the router on concat(x_m, mean x_n).

    Args:
        target: the modality whose delta is mixed.
        widths: width by modality, the target's included.
        groups: group names.
        sizes: experts per group.
        k: experts kept per group; a group with fewer keeps all.
        mode: see above.
        granularity: one decision per token, segment or sample.
        renormalize: divide the kept weights by their sum. Refused where k = 1 would make the weight a constant 1 that
            gives the router no gradient.
        drop: experts of each group that were pruned. They keep their logit, so the weights of the others stay what they
            were, and cannot be selected; a group that lost all its experts is gone. Everything that is returned, and
            ``groups``, ``sizes`` and ``k``, speak of what is left.

    ``barred`` experts are as if pruned, but still there.
    """

    def __init__(
        self,
        target: str,
        widths: Mapping[str, int],
        groups: Sequence[str],
        *,
        sizes: Sequence[int],
        k: Sequence[int],
        mode: Mode = "two_level",
        granularity: Granularity = "token",
        renormalize: bool = False,
        drop: Sequence[Collection[int]] | None = None,
    ) -> None:
        if mode not in ("two_level", "flat", "fixed", "uniform", "random"):
            raise ConfigError(f"peft.routing must be two_level, flat, fixed, uniform or random, not {mode!r}")
        if granularity not in ("token", "segment", "sample"):
            raise ConfigError(f"peft.granularity must be token, segment or sample, not {granularity!r}")
        if renormalize and any(kept == 1 and size > 1 for kept, size in zip(k, sizes, strict=True)):
            raise ConfigError(
                "peft.renormalize with k = 1 makes the kept weight a constant 1, so the router would get no gradient: "
                "set peft.k=2 or peft.renormalize=false"
            )
        left = [
            [e for e in range(size) if e not in gone]
            for size, gone in zip(sizes, drop or [()] * len(sizes), strict=True)
        ]
        stay = [g for g, experts in enumerate(left) if experts]
        super().__init__(target, [groups[g] for g in stay], [len(left[g]) for g in stay])
        self.built = tuple(sizes)
        self.k = tuple(min(k[g], len(left[g])) for g in stay)
        self.mode, self.granularity, self.renormalize = mode, granularity, renormalize
        self.others = tuple(name for name in widths if name != target)
        logits = sum(sizes) + (0 if mode == "flat" else len(groups))
        if mode in ("two_level", "flat"):
            self.weight = nn.ParameterDict({m: nn.Parameter(torch.empty(logits, d)) for m, d in widths.items()})
            for weight in self.weight.values():
                nn.init.normal_(weight, std=0.02)
        if mode in ("two_level", "flat", "fixed"):
            self.bias = nn.Parameter(torch.zeros(logits))
        self.even = len({*zip(self.sizes, self.k, strict=True)}) == 1
        self.pruned = self.sizes != self.built
        self.kept_of_all = sum(min(pair) for pair in zip(k, sizes, strict=True))
        first = [sum(self.built[:g]) for g in range(len(self.built))]
        flat = [first[g] + e for g in stay for e in left[g]]
        self.register_buffer("stay", torch.tensor(stay, dtype=torch.long), persistent=False)
        self.register_buffer("left", torch.tensor(flat, dtype=torch.long), persistent=False)

    def forward(self, tokens: Mapping[str, Float[Tensor, "S _N _D"]], streams: Mapping[str, Stream]) -> Routing:
        """Decide for every token of the target stream.

        Args:
            tokens: what the adapters read, by modality.
            streams: the streams they come from, for masks and layout.
        """
        stream = streams[self.target]
        rows, count = tokens[self.target].shape[:2]
        device = tokens[self.target].device
        with torch.autocast(device.type, enabled=False):
            if self.mode in ("uniform", "random"):
                group, expert, probs, selected = self._unlearned(rows, count, device)
            else:
                group, expert, probs, selected = self._learned(self._logits(tokens, streams))
        full = [spread(part.flatten(2), count).unflatten(2, part.shape[2:]) for part in (group, expert, selected)]
        probs = None if probs is None else spread(probs.flatten(2), count).unflatten(2, probs.shape[2:])
        return self.steered(Routing(*full, probs, stream.keep, self.groups, self.sizes))

    def _logits(
        self, tokens: Mapping[str, Float[Tensor, "S _N _D"]], streams: Mapping[str, Stream]
    ) -> Float[Tensor, "S n L"]:
        own, stream = tokens[self.target], streams[self.target]
        wide = self.bias.dtype if self.bias.dtype == torch.float64 else torch.float32
        if self.mode == "fixed":
            return self.bias.to(wide).expand(*own.shape[:2], -1)
        read = own if self.granularity == "token" else pool_rows(own.to(wide), stream.keep, self.granularity, stream)
        logits = WideLinear.apply(read, self.weight[self.target].to(wide), self.bias.to(wide))
        for name in self.others:
            other = tokens[name].to(wide)
            if self.granularity == "sample":
                context = pool_rows(other, streams[name].keep, "sample", streams[name])
            else:
                context = masked_mean(other, streams[name].keep).unsqueeze(1)
            logits = logits + F.linear(context, self.weight[name].to(wide))
        return logits

    def _learned(self, logits: Float[Tensor, "S n L"]) -> tuple[Tensor, Tensor, Tensor, Bool[Tensor, "S n G E"]]:
        if self.mode == "flat":
            return self._flat(logits)
        count = len(self.built)
        group = logits[..., :count].softmax(-1)
        if self.pruned:
            parts = [part.softmax(-1) for part in logits[..., count:].split(self.built, -1)]
            group, probs = group[..., self.stay], self._pad(torch.cat(parts, -1)[..., self.left], 0.0)
        else:
            probs = self._pad(logits[..., count:], float("-inf")).softmax(-1)
        selected = self._select(probs)
        return group, self._kept(probs, selected), probs, selected

    def _flat(self, logits: Float[Tensor, "S n L"]) -> tuple[Tensor, Tensor, Tensor, Bool[Tensor, "S n G E"]]:
        flat = logits.softmax(-1)
        if self.pruned:
            flat = flat[..., self.left]
        probs, scores = self._pad(flat, 0.0), flat
        if self.barred is not None:
            scores = flat.masked_fill(self.barred[self.real], -1)
        selected = self._pad(top_k(scores, self.kept_of_all), False)
        selected = self._allowed(selected)
        weights = probs * selected
        tiny = torch.finfo(weights.dtype).tiny
        if self.renormalize:
            weights = weights / weights.sum((-2, -1), keepdim=True).clamp(min=tiny)
        group = weights.sum(-1)
        return group, weights / group.clamp(min=tiny).unsqueeze(-1), probs, selected

    def _kept(self, probs: Float[Tensor, "S n G E"], selected: Bool[Tensor, "S n G E"]) -> Float[Tensor, "S n G E"]:
        kept = probs * selected
        if not self.renormalize:
            return kept
        return kept / kept.sum(-1, keepdim=True).clamp(min=torch.finfo(kept.dtype).tiny)

    def _unlearned(self, rows: int, count: int, device: torch.device) -> tuple[Tensor, Tensor, None, Tensor]:
        shape = (rows, count, len(self.groups))
        group = torch.full(shape, 1 / len(self.groups), device=device)
        selected = self.real.expand(*shape, -1)
        if self.mode == "random" and self.training:
            draw = torch.rand(*shape, max(self.sizes), device=device).masked_fill(~self.real, -1)
            selected = self._select(draw)
        weights = selected / selected.sum(-1, keepdim=True)
        return group, weights, None, selected

    def _select(self, scores: Float[Tensor, "S n G E"]) -> Bool[Tensor, "S n G E"]:
        if self.barred is not None:
            scores = scores.masked_fill(self.barred, -1)
        if self.even:
            return self._allowed(top_k(scores, self.k[0]))
        return self._allowed(torch.stack([top_k(scores[..., g, :], k) for g, k in enumerate(self.k)], -2) & self.real)

    def _allowed(self, values: Tensor) -> Tensor:
        """Zero, or False, for the experts that are barred."""
        return values if self.barred is None else values.masked_fill(self.barred, 0)

    def _pad(self, flat: Tensor, value: float | bool) -> Tensor:
        """(..., sum of sizes) to (..., G, E), short groups filled up."""
        if self.even:
            return flat.unflatten(-1, (len(self.sizes), -1))
        parts = flat.split(self.sizes, -1)
        most = max(self.sizes)
        return torch.stack([F.pad(part, (0, most - part.shape[-1]), value=value) for part in parts], -2)
