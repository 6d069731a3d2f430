"""Any list of blocks, adapted after whole blocks: an encoder of one's own from YAML alone."""

from collections.abc import Callable, Sequence
from typing import Any

from jaxtyping import Bool
from torch import Tensor, nn

from hmmoe.backbones.base import Context, Encoder, Half, Pooling
from hmmoe.backbones.weights import load_strictly, read_state
from hmmoe.errors import ConfigError


class Blocks(Encoder):
    """A model made of: some steps, a list of blocks, some steps. The site lies at the output of a block.

    There ``out`` is the whole hidden state (``inp`` and ``residual`` what the block read), so an adapter acts after the
    block's residual sum instead of inside its FFN branch; everything else is as with the families.

    Args:
        model: the module, built from its class path.
        blocks: dotted path of its list of blocks.
        before, after: dotted paths of submodules or methods that lead to the first block and away from the last, in
            order.
        widths: width of every block's output, or one number for all.
        mask: keyword under which the steps and blocks named in ``masked`` take the text's keep mask (S, N).
        masked: those paths; the list of blocks by its own path.
        prefix: leading tokens that are no patches or words.
        weights: local file with a state dict of ``model``; None leaves it as built.
        pool: "cls", "mean" or "last".

    Raises:
        ConfigError: a path that leads nowhere, or a number of widths that does not fit.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        blocks: str,
        widths: int | Sequence[int],
        before: Sequence[str] = (),
        after: Sequence[str] = (),
        mask: str | None = None,
        masked: Sequence[str] = (),
        prefix: int = 0,
        weights: str | None = None,
        pool: Pooling = "mean",
    ) -> None:
        listed = _find(model, blocks)
        for path in (*before, *after):
            _find(model, path)
        if weights is not None:
            load_strictly(model, read_state(weights), source=weights)
        depth = len(listed)
        widths = [widths] * depth if isinstance(widths, int) else list(widths)
        if len(widths) != depth:
            raise ConfigError(
                f"widths has {len(widths)} numbers, {blocks} has {depth} blocks: give one each, or one number"
            )
        self.prefix = prefix
        super().__init__(model, widths=widths, stages=[depth], pool=pool)
        self.path, self.before, self.after = blocks, tuple(before), tuple(after)
        self.mask, self.masked = mask, set(masked)

    def block(self, k: int) -> nn.Module:
        """The k-th block."""
        return _find(self.library, self.path)[k]

    def embed(self, x: Tensor, keep: Bool[Tensor, "S N"] | None) -> tuple[Tensor, Context]:
        """The steps before the first block."""
        ctx = {"keep": keep}
        for path in self.before:
            x = _find(self.library, path)(x, **self._extra(path, ctx))
        return x, ctx

    def half(self, k: int, x: Tensor, ctx: Context) -> Half:
        """The whole block."""
        return Half(x, x, self.block(k)(x, **self._extra(self.path, ctx)))

    def merge(self, k: int, half: Half, ctx: Context) -> Tensor:
        """Nothing is left to do."""
        return half.out

    def finish(self, x: Tensor, ctx: Context) -> Tensor:
        """The steps after the last block."""
        for path in self.after:
            x = _find(self.library, path)(x, **self._extra(path, ctx))
        return x

    def _extra(self, path: str, ctx: Context) -> dict[str, Any]:
        return {self.mask: ctx["keep"]} if self.mask and path in self.masked else {}


def _find(model: nn.Module, path: str) -> Callable[..., Any]:
    found: Any = model
    for part in path.split("."):
        if not hasattr(found, part):
            inside = (
                ", ".join(name for name, _ in found.named_children()) if isinstance(found, nn.Module) else "nothing"
            )
            raise ConfigError(f"{type(model).__name__} has no {path!r}: {type(found).__name__} holds {inside}")
        found = getattr(found, part)
    return found
