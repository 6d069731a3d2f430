"""Methods that add nothing: which parts of the backbone train beside the head."""

from collections.abc import Iterable

from torch import nn

from hmmoe.errors import ConfigError
from hmmoe.peft.base import Peft


class Policy(Peft):
    """Adds nothing, so there is nothing to merge: what trained are the backbone's own weights."""

    def merge(self, backbone: nn.Module) -> None:
        """Done already."""


class LinearProbe(Policy):
    """Frozen features, only the head trains: the floor of every comparison."""


class Full(Policy):
    """Full fine-tuning: every weight trains, the modules stay in eval mode (no dropout, fixed statistics)."""

    def prepare(self, backbone: nn.Module) -> None:
        """Unfreeze."""
        backbone.requires_grad_(True)


class BitFit(Policy):
    """Every bias of the backbone trains, those of its norms included (Ben Zaken et al., arXiv 2106.10199).

    Parameters: one per output channel of every layer that has a bias. They train at ``optim.lr.backbone``.
    """

    def prepare(self, backbone: nn.Module) -> None:
        """Unfreeze what is called bias; some libraries name the slices of a fused one q_bias and v_bias."""
        _unfreeze(
            (p for name, p in backbone.named_parameters() if name.rpartition(".")[2].endswith("bias")),
            "no bias",
        )


class NormTuning(Policy):
    """Gains and biases of every norm train (Frankle et al., arXiv 2003.00152; Zhao et al., arXiv 2312.11420).

    Parameters: 2 D per LayerNorm of width D, D where it has no bias. Running statistics stay as they are. They train
    at ``optim.lr.backbone``.
    """

    def prepare(self, backbone: nn.Module) -> None:
        """Unfreeze; the libraries' norms have no common base, but all are called so."""
        norms = (module for module in backbone.modules() if "norm" in type(module).__name__.lower())
        _unfreeze((p for norm in norms for p in norm.parameters(recurse=False)), "no norm with a gain")


def _unfreeze(parameters: Iterable[nn.Parameter], absent: str) -> None:
    """Let these train, in float32 whatever the frozen weights are stored in."""
    found = list(parameters)
    if not found:
        raise ConfigError(f"the backbone has {absent}: choose another peft=, such as peft=lora")
    for parameter in found:
        parameter.data = parameter.data.float()
        parameter.requires_grad_(True)
