"""Parts of a frozen backbone that are run whole: what can be spread over GPUs and put together for one call.

Blocks are no such parts: they stand open at their FFN's output, so nobody calls them.
"""

from collections.abc import Collection

from torch import nn

from hmmoe.backbones.base import Backbone, Encoder
from hmmoe.errors import ConfigError


def units(backbone: Backbone | Encoder) -> list[nn.Module]:
    """Attention and FFN of every block; an FFN that the library keeps in pieces gives each of its linear layers.

    Empty where a tower does not tell its linear layers by role.
    """
    try:
        q, o, first, second = (_names(backbone, role) for role in ("q", "o", "fc1", "fc2"))
    except ConfigError:
        return []
    paths = [
        *(_around(name, q) for name in o),
        *(_around(name, second, without=q) for name in first),
        *(_around(name, first, without=q) for name in second),
    ]
    return [backbone.get_submodule(path) for path in dict.fromkeys(paths)]


def _names(backbone: Backbone | Encoder, role: str) -> list[str]:
    return [part.name for part in backbone.linears(role)]


def _around(name: str, partners: Collection[str], without: Collection[str] = ()) -> str:
    """The smallest module that holds ``name`` and a partner of it, or ``name`` if that holds what it must not."""
    path = name
    while path:
        path = path.rpartition(".")[0]
        held = f"{path}."
        if any(other.startswith(held) for other in without):
            break
        if any(partner.startswith(held) for partner in partners):
            return path
    return name
