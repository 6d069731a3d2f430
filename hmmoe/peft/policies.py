"""Methods that add nothing: which parts of the backbone train beside the head."""

from torch import nn

from hmmoe.peft.base import Peft


class LinearProbe(Peft):
    """Frozen features, only the head trains: the floor of every comparison."""


class Full(Peft):
    """Full fine-tuning: every weight trains, the modules stay in eval mode (no dropout, fixed statistics)."""

    def prepare(self, backbone: nn.Module) -> None:
        """Unfreeze."""
        backbone.requires_grad_(True)
