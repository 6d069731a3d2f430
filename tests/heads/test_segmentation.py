"""The mask decoder: any tower, every stage matters, missing sound changes nothing, bad grids are named."""

import pytest
import torch

from hmmoe.errors import ConfigError
from hmmoe.heads.segmentation import PyramidHead
from hmmoe.types import Features, Widths
from tests import small

SMALL = {"size": 24, "channels": 8, "dilations": (1, 2)}


def features(sides: tuple[int, ...] = (8, 4), heard: bool = True) -> dict[str, Features]:
    levels = tuple(torch.randn(2, 3, side * side, 6 * 2**k) for k, side in enumerate(sides))
    sound = Features(torch.randn(2, 3, 5, 4), torch.full((2, 3, 5), heard), torch.randn(2, 3, 4))
    return {"vision": Features(levels[-1], None, levels[-1].mean(2), levels), "audio": sound}


def head(sides: tuple[int, ...] = (8, 4), **options) -> PyramidHead:
    widths = [6 * 2**k for k in range(len(sides))]
    given = Widths({"vision": widths[-1], "audio": 4}, levels={"vision": widths, "audio": [4]})
    return PyramidHead(given, **SMALL | options).eval()


@pytest.mark.parametrize("sides", [(8, 4), (16, 8, 4, 2), (6,), (7, 5)])
def test_any_number_of_stages_and_any_grid(sides):
    assert head(sides)(features(sides)).shape == (2, 3, 24, 24)


def test_every_stage_and_every_weight_reaches_the_mask():
    decoder, given = head((8, 4, 2)), features((8, 4, 2))
    levels = tuple(level.requires_grad_() for level in given["vision"].levels)
    given["vision"] = given["vision"]._replace(levels=levels)
    decoder(given).square().sum().backward()
    assert all(level.grad.abs().sum() > 0 for level in levels)
    assert all(parameter.grad is not None for parameter in decoder.parameters())


def test_missing_sound_is_not_heard():
    decoder = head()
    silent = features(heard=False)
    other = silent | {"audio": silent["audio"]._replace(pooled=torch.randn(2, 3, 4))}
    torch.testing.assert_close(decoder(silent), decoder(other), rtol=0, atol=0)
    heard = features()
    other = heard | {"audio": heard["audio"]._replace(pooled=torch.randn(2, 3, 4))}
    assert (decoder(heard) - decoder(other)).abs().max() > 1e-4


def test_without_hearing_there_is_no_gate():
    decoder, given = head(hears=False), features()
    other = given | {"audio": given["audio"]._replace(pooled=torch.randn(2, 3, 4))}
    torch.testing.assert_close(decoder(given), decoder(other), rtol=0, atol=0)
    assert not [name for name, _ in decoder.named_parameters() if "gate" in name or "sound" in name]


def test_one_sound_may_serve_all_pictures_and_two_may_not():
    decoder, given = head(), features()
    sound = given["audio"]
    once = given | {"audio": Features(sound.tokens[:, :1], sound.keep[:, :1], sound.pooled[:, :1])}
    pooled = sound.pooled[:, :1].expand(-1, 3, -1)
    torch.testing.assert_close(decoder(once), decoder(given | {"audio": sound._replace(pooled=pooled)}))
    twice = given | {"audio": Features(sound.tokens[:, :2], sound.keep[:, :2], sound.pooled[:, :2])}
    with pytest.raises(ConfigError, match="2 segments of sound for 3 pictures"):
        decoder(twice)


def test_segments_do_not_see_each_other():
    decoder, given = head(), features()
    vision = given["vision"]
    levels = tuple(level.clone() for level in vision.levels)
    for level in levels:
        level[:, 1] = 0
    changed = decoder(given | {"vision": vision._replace(levels=levels)})
    torch.testing.assert_close(changed[:, [0, 2]], decoder(given)[:, [0, 2]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("vision", [small.swin, small.vit])
def test_real_towers_hand_out_what_it_needs(vision):
    backbone = small.Towers({"vision": vision(), "audio": small.ast()}, meet="segment")
    small.perturb(backbone)
    state = backbone.embed(small.batch("vision", "audio"))
    for site in backbone.sites:
        state, _ = backbone.open(site, state)
        state = backbone.close(site, state, {})
    found = backbone.finish(state)
    tower = backbone.towers["vision"]
    assert [level.shape[-1] for level in found["vision"].levels] == list(backbone.widths.levels["vision"])
    assert len(found["vision"].levels) == len(tower.stages)
    torch.testing.assert_close(found["vision"].levels[-1], found["vision"].tokens[:, :, tower.prefix :])
    decoder = PyramidHead(backbone.widths, **SMALL)
    assert decoder(found).shape == (2, 3, 24, 24)


def test_levels_are_the_library_s_own_stage_outputs():
    tower = small.swin()
    small.perturb(tower)
    backbone = small.Towers({"vision": tower})
    pictures = torch.randn(1, 2, 3, 32, 32)
    found = backbone.finish(backbone.embed({"vision": pictures}))["vision"]
    x = tower.library.patch_embed(pictures[0])
    for level, stage in zip(found.levels[:-1], tower.library.layers, strict=False):
        x = stage(x)
        torch.testing.assert_close(level[0], x.flatten(1, 2), rtol=0, atol=0)


def test_a_backbone_without_maps_and_a_grid_that_is_no_square_are_named(unchecked):
    with pytest.raises(ConfigError, match=r"feature maps of a vision tower.*choose one of separate towers"):
        PyramidHead({"vision": 8, "audio": 4}, **SMALL)
    given = features()
    levels = tuple(level[:, :, :-1] for level in given["vision"].levels)
    with pytest.raises(ConfigError, match=r"63 places, no square"):
        head()(given | {"vision": given["vision"]._replace(levels=levels)})
    with pytest.raises(ConfigError, match=r"task\.head: expected size"):
        head(dilations=())
