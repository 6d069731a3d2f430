"""The head for ordered segments."""

import pytest
import torch

from hmmoe.errors import ConfigError
from hmmoe.heads.pair import PairHead
from hmmoe.types import Features

WIDTHS = {"vision": 6, "text": 4}


def features(text_segments: int = 1, keep: torch.Tensor | None = None) -> dict[str, Features]:
    torch.manual_seed(1)
    mask = None if keep is None else keep[:, :, None].expand(-1, -1, 5)
    vision = Features(torch.randn(3, 2, 5, 6), mask, torch.randn(3, 2, 6))
    text = Features(torch.randn(3, text_segments, 7, 4), None, torch.randn(3, text_segments, 4))
    return {"vision": vision, "text": text}


def head(**options) -> PairHead:
    torch.manual_seed(0)
    return PairHead(WIDTHS, **({"classes": 2, "hidden": 8} | options)).eval()


@pytest.mark.parametrize("fusion", ["concat", "product"])
@pytest.mark.parametrize("text_segments", [1, 2])
def test_left_and_right_are_told_apart(text_segments, fusion):
    given = features(text_segments)
    turned = given | {"vision": given["vision"]._replace(pooled=given["vision"].pooled.flip(1))}
    assert (head(fusion=fusion)(given) - head(fusion=fusion)(turned)).abs().max() > 1e-3


def test_the_product_is_of_vectors_of_one_place():
    own, given = head(fusion="product"), features()
    seen = []
    own.hidden.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    own(given)
    for place in range(2):
        maps = {m: own.maps[m](given[m].pooled[:, min(place, given[m].pooled.shape[1] - 1)]) for m in WIDTHS}
        by_hand = maps["vision"].view(3, 2, 8)[:, place] * maps["text"].view(3, 2, 8)[:, place]
        torch.testing.assert_close(seen[0].view(3, 2, 8)[:, place], by_hand)


def test_it_is_vlmos_classifier_on_the_two_vectors_of_the_sentence():
    own, given = head(reads=["text"], hidden=8), features(2)
    vectors = given["text"].pooled.flatten(1)
    by_hand = own.out(torch.nn.functional.gelu(own.norm(vectors @ own.hidden.weight.T + own.hidden.bias)))
    torch.testing.assert_close(own(given), by_hand)
    other = given | {"vision": given["vision"]._replace(pooled=torch.zeros(3, 2, 6))}
    torch.testing.assert_close(own(given), own(other), rtol=0, atol=0)


def test_a_missing_picture_does_not_count():
    keep = torch.tensor([[True, False], [True, True], [False, False]])
    first = features(keep=keep)
    changed = torch.where(keep[..., None], first["vision"].pooled, torch.tensor(100.0))
    second = first | {"vision": first["vision"]._replace(pooled=changed)}
    torch.testing.assert_close(head()(first), head()(second), rtol=0, atol=0)


@pytest.mark.parametrize("options", [{"reads": ["sound"]}, {"reads": []}, {"segments": 0}])
def test_what_is_not_there_is_refused(options):
    with pytest.raises(ConfigError, match=r"task\.head\.reads=.*expected some of vision, text"):
        head(**options)


def test_an_unknown_fusion_is_named(unchecked):
    with pytest.raises(ConfigError, match=r"task\.head\.fusion must be concat or product"):
        head(fusion="sum")


def test_another_number_of_segments_is_refused():
    with pytest.raises(ConfigError, match=r"task\.head\.segments=3, but vision has 2"):
        head(segments=3)(features())
