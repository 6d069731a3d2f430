"""What a frozen encoder and a frozen backbone must offer. Axis legend: ``hmmoe/types.py``."""

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from hmmoe.backbones.weights import write_library
from hmmoe.errors import ConfigError
from hmmoe.marks import Inserted
from hmmoe.masked import masked_mean
from hmmoe.types import Batch, Features, Site, Stream

Context = dict[str, Tensor | None]
Roles = Mapping[str, tuple[str, int, int]]
"""Role -> (module path inside a block, which part, of how many parts fused along the rows)."""
Pooling = Literal["cls", "mean", "last", "library"]


Store = Literal["float32", "bfloat16"]

UNSHAPED = ("architectures", "dtype", "id2label", "label2id", "model_type", "transformers_version")
"""Keys of a transformers config that say nothing of a headless model's shape."""


class Half(NamedTuple):
    """A block run up to and including its FFN."""

    residual: Float[Tensor, "S N D"]
    inp: Float[Tensor, "S N D"]
    out: Float[Tensor, "S N D"]


class LinearPart(NamedTuple):
    """A linear layer, or the rows of a fused one, that plays one role in a block."""

    name: str
    rows: tuple[int, int] | None = None


class Encoder(nn.Module, ABC):
    """One tower: an unmodified library model, opened block by block at the output of its FFN.

    ``half`` then ``merge`` with an unchanged ``out`` is the library's own block, bit for bit. A norm that follows
    the FFN, dropout, layer scale and the residual sum belong to ``merge``.

    Args:
        library: the timm or transformers model; its state-dict keys are those of the published checkpoint.
        widths: width D of every block.
        stages: number of blocks of every stage; one entry for a flat tower.
        pool: "cls" for the mean of the prefix tokens, "mean" for the mean of the others, "last" for the last kept
            token, "library" for what the library itself hands to a classifier.
    """

    prefix: int = 0
    """Leading tokens that are no patches or words."""

    clips: ClassVar[bool] = False
    """Takes all T frames of a sample at once, (B, T, C, H, W), and makes one segment of them."""

    roles: Roles = MappingProxyType({})

    def __init__(self, library: nn.Module, *, widths: Sequence[int], stages: Sequence[int], pool: Pooling) -> None:
        super().__init__()
        if sum(stages) != len(widths):
            raise ConfigError(f"stages {tuple(stages)} must add up to the {len(widths)} blocks that have widths")
        if pool == "cls" and self.prefix == 0:
            raise ConfigError(f"{type(self).__name__} has no class token: set pool: mean")
        self.library = library
        self.widths = tuple(widths)
        self.stages = tuple(stages)
        self.pooling = pool

    @abstractmethod
    def block(self, k: int) -> nn.Module:
        """The library's k-th block."""

    @abstractmethod
    def embed(self, x: Tensor, keep: Bool[Tensor, "S N"] | None) -> tuple[Tensor, Context]:
        """Inputs to the first hidden state, in the library's own layout, and what later blocks need beside it."""

    @abstractmethod
    def half(self, k: int, x: Tensor, ctx: Context) -> Half:
        """Run block k up to and including its FFN."""

    @abstractmethod
    def merge(self, k: int, half: Half, ctx: Context) -> Tensor:
        """Run the rest of block k; the adapter's delta is already in ``half.out``."""

    @abstractmethod
    def finish(self, x: Tensor, ctx: Context) -> Float[Tensor, "S N D"]:
        """The last hidden state to output tokens."""

    def pool(self, tokens: Float[Tensor, "S N D"], keep: Bool[Tensor, "S N"] | None) -> Float[Tensor, "S D"]:
        """One vector per row."""
        if self.pooling == "library":
            return self.own_pool(tokens, keep)
        if self.pooling == "last":
            last = -1 if keep is None else keep.long().cumsum(1).argmax(1)
            return tokens[torch.arange(len(tokens), device=tokens.device), last]
        if self.pooling == "cls":
            return tokens[:, : self.prefix].mean(1)
        return masked_mean(tokens[:, self.prefix :], None if keep is None else keep[:, self.prefix :])

    def own_pool(self, tokens: Float[Tensor, "S N D"], keep: Bool[Tensor, "S N"] | None) -> Float[Tensor, "S D"]:
        """The library's own pooling, for ``pool: library``."""
        raise ConfigError(f"{type(self).__name__} has no pooling of its own: set pool to cls, mean or last")

    def linears(self, role: str) -> list[LinearPart]:
        """The linear layers that play ``role`` (q, k, v, o, fc1, fc2), one per block, named from this encoder."""
        if role not in self.roles:
            raise ConfigError(f"role {role!r} is unknown to {type(self).__name__}: choose from {sorted(self.roles)}")
        path, part, parts = self.roles[role]
        names = {module: name for name, module in self.named_modules()}
        found = []
        for k in range(len(self.widths)):
            linear = self.block(k).get_submodule(path)
            size = linear.weight.shape[0] // parts
            found.append(LinearPart(names[linear], (part * size, (part + 1) * size) if parts > 1 else None))
        return found

    def shape(self) -> dict[str, Any]:
        """Settings that ``weights`` brings along, and that a tower built without them must be told."""
        config = getattr(self.library, "config", None)
        return {} if config is None else {k: v for k, v in config.to_diff_dict().items() if k not in UNSHAPED}

    def publish(self, folder: Path) -> Path:
        """Write the weights as they stand, as the ``weights`` key of this family reads them; the file or folder."""
        return write_library(self.library, folder)


class Backbone(nn.Module, ABC):
    """Frozen model(s), opened at every site for all modalities at once. Always in eval mode, buffers included."""

    modalities: tuple[str, ...]
    sites: tuple[Site, ...]
    widths: dict[str, int]
    """Width of every modality's final features."""
    stored: torch.dtype
    """Of the frozen weights."""
    inputs: dict[str, dict[str, Any]]
    """What each modality's input must look like: size, segments, mels, frames, length."""

    @abstractmethod
    def embed(self, batch: Batch) -> Any:
        """A batch to the state before the first site."""

    @abstractmethod
    def open(self, site: Site, state: Any) -> tuple[Any, dict[str, Stream]]:
        """Run to the site and lay the FFN outputs of all modalities open."""

    @abstractmethod
    def close(self, site: Site, state: Any, outs: dict[str, Float[Tensor, "S _N _D"]]) -> Any:
        """Go on with the given FFN outputs; a modality that is not named keeps its own."""

    @abstractmethod
    def finish(self, state: Any) -> dict[str, Features]:
        """Run what follows the last site."""

    @abstractmethod
    def linears(self, role: str) -> list[LinearPart]:
        """Linear layers by role, named from the backbone, for methods that change weights."""

    def encoders(self) -> dict[str, Encoder]:
        """Every tower by its path in the backbone; one that two modalities share comes once."""
        return {path: module for path, module in self.named_modules() if isinstance(module, Encoder)}

    def libraries(self) -> dict[str, tuple[str, nn.Module]]:
        """Name -> (prefix of parameter names, module) of all that others can build and load: the library models."""
        return {_leaf(path): (f"{path}.library.", tower.library) for path, tower in self.encoders().items()}

    def publish(self, folder: Path) -> dict[str, Path]:
        """Write the weights as they stand, in the formats that the ``weights`` keys read; what was written, by name."""
        return {_leaf(path): tower.publish(folder / _leaf(path)) for path, tower in self.encoders().items()}

    def freeze(self, store: Store = "float32") -> None:
        """No gradient, eval mode. Called once, at the end of construction.

        Args:
            store: dtype of the frozen weights in memory. bfloat16 halves them and runs under bf16 autocast only.

        Raises:
            ConfigError: another dtype.
        """
        if store not in ("float32", "bfloat16"):
            raise ConfigError(f"backbone.store must be float32 or bfloat16, not {store!r}")
        self.stored = getattr(torch, store)
        for parameter in self.parameters():
            parameter.data = parameter.data.to(self.stored)
        self.requires_grad_(False)
        self.train(False)

    def train(self, mode: bool = True) -> "Backbone":
        """Stay in eval mode; only trainable parts inserted by a PEFT method follow ``mode``.

        ``requires_grad=False`` alone would let running statistics, dropout and stochastic depth go on.
        """
        super().train(False)
        self.training = False
        for module in self.modules():
            if isinstance(module, Inserted):
                module.train(mode)
        return self

    def fingerprint(self) -> str:
        """SHA-256 over sorted names, dtypes, shapes and raw bytes of all weights and persistent buffers.

        Take it before a method injects anything: it names the model that the checkpoint belongs to.
        """
        digest = hashlib.sha256()
        for name, tensor in sorted(self.state_dict().items()):
            digest.update(f"{name}|{tensor.dtype}|{tuple(tensor.shape)}|".encode())
            if tensor.device.type != "meta":
                digest.update(tensor.detach().contiguous().view(-1).view(torch.uint8).cpu().numpy().data)
        return digest.hexdigest()


def _leaf(path: str) -> str:
    return path.rpartition(".")[2]
