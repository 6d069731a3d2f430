"""Backbone + method + head: the loop over sites, and nothing else."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from hmmoe.backbones.base import Backbone
from hmmoe.errors import ConfigError
from hmmoe.peft.base import Peft
from hmmoe.types import Batch, ModelOutput, Routing, Site


class AdaptedModel(nn.Module):
    """A frozen backbone whose FFN outputs a PEFT method may change at every site, and a head on its features.

    Args:
        backbone: frozen; its fingerprint is taken here, before anything is injected.
        peft: builds the method from the backbone's sites.
        head: builds the head from {modality: width}.
        checkpointing: recompute every site in the backward pass instead of storing its activations.
    """

    def __init__(
        self,
        backbone: Backbone,
        peft: Callable[[Sequence[Site]], Peft],
        head: Callable[[dict[str, int]], nn.Module],
        *,
        checkpointing: bool = False,
    ) -> None:
        super().__init__()
        self.backbone = backbone
        self.fingerprint = backbone.fingerprint()
        self.peft = peft(backbone.sites)
        self.head = head(backbone.widths)
        self.checkpointing = checkpointing
        self.peft.prepare(backbone)

    def forward(self, batch: Batch) -> ModelOutput:
        """Logits, features and what every router decided, keyed by (site label, modality)."""
        self._check_precision()
        state = self.backbone.embed(batch)
        routing: dict[tuple[str, str], Routing] = {}
        for site in self.backbone.sites:
            if self.checkpointing and self.training:
                state, decided = checkpoint(self._visit, site, state, use_reentrant=False)
            else:
                state, decided = self._visit(site, state)
            routing |= {(site.label, m): decision for m, decision in decided.items()}
        features = self.backbone.finish(state)
        return ModelOutput(self.head(features), features, routing)

    def _visit(self, site: Site, state: Any) -> tuple[Any, dict[str, Routing]]:
        state, streams = self.backbone.open(site, state)
        deltas, routing = self.peft(site, streams)
        outs: dict[str, Tensor] = {m: streams[m].out + delta for m, delta in deltas.items()}
        return self.backbone.close(site, state, outs), routing

    def _check_precision(self) -> None:
        device = next(self.backbone.parameters()).device.type
        if self.backbone.stored != torch.float32 and not torch.is_autocast_enabled(device):
            raise ConfigError(
                "backbone.store=bfloat16 runs under bf16 autocast only: set precision=bf16-mixed, or "
                "backbone.store=float32"
            )
