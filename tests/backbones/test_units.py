"""What may be spread over GPUs is read inside its own calls and nowhere else, in every family."""

import pytest
import torch

from hmmoe.backbones.units import units
from tests import small
from tests.backbones.families import FAMILIES, KEEP, run
from tests.small import perturb


def away(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Take the module's weights out, as a process that holds only its share has them."""
    kept = {name: parameter.detach().clone() for name, parameter in module.named_parameters()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.fill_(torch.nan)
    return kept


def back(module: torch.nn.Module, kept: dict[str, torch.Tensor]) -> None:
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(kept[name])


@pytest.mark.parametrize("family", FAMILIES)
def test_weights_are_needed_only_while_their_unit_runs(family):
    build, make, _, masked = FAMILIES[family]
    encoder = build()
    perturb(encoder)
    encoder.eval()
    torch.manual_seed(7)
    x, keep = make(), KEEP if masked else None
    with torch.no_grad():
        expected = run(encoder, x, keep)
    found = units(encoder)
    assert len(found) >= 2 * len(encoder.widths)
    for part in found:
        kept = away(part)
        part.register_forward_pre_hook(lambda module, inputs, kept=kept: back(module, kept))
        part.register_forward_hook(lambda module, inputs, output: away(module) and None)
    with torch.no_grad():
        torch.testing.assert_close(run(encoder, x, keep), expected, rtol=0, atol=0)


def test_units_do_not_overlap_and_hold_most_of_the_weights():
    backbone = small.towers("vision", "audio", "text")
    found = units(backbone)
    inside = [id(parameter) for part in found for parameter in part.parameters()]
    assert len(inside) == len(set(inside))
    for name in ("vision", "audio", "text"):
        tower = backbone.tower(name)
        held = sum(p.numel() for k in range(len(tower.widths)) for p in tower.block(k).parameters())
        spread = sum(p.numel() for part in units(tower) for p in part.parameters())
        assert spread > 0.9 * held


def test_a_tower_without_named_layers_has_no_units():
    nameless = small.vit()
    nameless.roles = {}
    assert units(nameless) == []
