"""Balance terms: values by formula, no pooling over sites, gradients of two processes equal to those of one."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from hmmoe.errors import ConfigError
from hmmoe.losses.balance import gate_kl, load_balance
from hmmoe.types import Routing
from tests.ranks import run_ranks

TERMS = (load_balance, gate_kl)


def routing(group: Tensor, probs: Tensor | None, keep: Tensor | None = None) -> Routing:
    """k = 1; ``probs`` (S,N,G,E), or None for one expert per group."""
    alone = torch.ones(*group.shape, 1)
    local = alone if probs is None else probs
    selected = (local == local.amax(-1, keepdim=True)) & (local.cumsum(-1) <= local.cumsum(-1)[..., -1:])
    names = tuple(f"g{i}" for i in range(group.shape[-1]))
    return Routing(group, local * selected, selected, probs, keep, names, (local.shape[-1],) * group.shape[-1])


def collapsed(onto: int, n: int = 4, tokens: int = 6) -> Routing:
    return routing(torch.eye(n)[onto].expand(1, tokens, n), None)


def test_balanced_is_one_and_collapsed_is_n() -> None:
    even = {("s", "v"): routing(torch.full((2, 3, 4), 0.25), None)}
    assert load_balance(even).item() == pytest.approx(1)
    assert gate_kl(even).item() == pytest.approx(0, abs=1e-6)
    assert load_balance({("s", "v"): collapsed(2)}).item() == pytest.approx(4)
    assert gate_kl({("s", "v"): collapsed(2)}).item() == pytest.approx(math.log(4))


def test_sites_that_collapsed_onto_different_experts_are_not_balanced() -> None:
    sites = {(f"site{i:02d}", "vision"): collapsed(i) for i in range(4)}
    assert load_balance(sites).item() == pytest.approx(4)
    assert gate_kl(sites).item() == pytest.approx(math.log(4))


def test_modalities_do_not_pool_either_however_many_tokens_one_has() -> None:
    streams = {("s", "vision"): collapsed(0, tokens=90), ("s", "audio"): collapsed(1, tokens=2)}
    even = routing(torch.full((1, 2, 4), 0.25), None)
    assert load_balance(streams).item() == pytest.approx(4)
    assert load_balance(streams | {("s", "audio"): even}).item() == pytest.approx(2.5)


def test_local_level_multiplies_selections_by_probabilities() -> None:
    # 3 of 4 tokens choose expert 0; mean probability of expert 0 is (3 * 0.6 + 0.2) / 4 = 0.5.
    probs = torch.tensor([[0.6, 0.4], [0.6, 0.4], [0.6, 0.4], [0.2, 0.8]])[None, :, None]
    value = load_balance({("s", "v"): routing(torch.ones(1, 4, 1), probs)})
    assert value.item() == pytest.approx(2 * (0.75 * 0.5 + 0.25 * 0.5))


@pytest.mark.parametrize("term", TERMS)
def test_padding_is_out_of_value_and_gradient(term: Callable) -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(2, 5, 3, generator=generator).requires_grad_()
    probs = torch.randn(2, 5, 3, 2, generator=generator).softmax(-1)
    keep = torch.tensor([[True, True, True, False, False], [True, True, True, False, False]])
    padded = term({("s", "v"): routing(logits.softmax(-1), probs, keep)})
    plain = term({("s", "v"): routing(logits.softmax(-1)[:, :3], probs[:, :3])})
    torch.testing.assert_close(padded, plain)
    (gradient,) = torch.autograd.grad(padded, logits)
    assert gradient[:, 3:].abs().max() == 0
    assert gradient[:, :3].abs().min() > 0


@pytest.mark.parametrize("term", TERMS)
def test_a_step_down_the_gradient_balances(term: Callable) -> None:
    logits = torch.tensor([2.0, 0.0, 0.0]).expand(1, 8, 3).clone().requires_grad_()
    before = term({("s", "v"): routing(logits.softmax(-1), None)})
    (gradient,) = torch.autograd.grad(before, logits)
    after = term({("s", "v"): routing((logits - 5 * gradient).softmax(-1), None)})
    assert after < before


@pytest.mark.parametrize("term", TERMS)
def test_an_absent_modality_costs_nothing_and_dilutes_nothing(term: Callable) -> None:
    gone = collapsed(1)._replace(keep=torch.zeros(1, 6, dtype=torch.bool))
    assert term({("s", "v"): collapsed(0), ("s", "a"): gone}) == term({("s", "v"): collapsed(0)})


@pytest.mark.parametrize("term", TERMS)
def test_nothing_to_balance_says_which_setting_to_change(term: Callable) -> None:
    with pytest.raises(ConfigError, match=r"peft\.balance_weight=0 or choose peft=hmmoe"):
        term({})


class Gate(nn.Module):
    """A router of three groups of two, returning its Routing as the model does."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(3)
        self.map = nn.Linear(4, 9).double()

    def forward(self, x: Tensor, keep: Tensor) -> dict[tuple[str, str], Routing]:
        logits = self.map(x)
        probs = logits[..., 3:].unflatten(-1, (3, 2)).softmax(-1)
        return {("s", "v"): routing(logits[..., :3].softmax(-1), probs, keep)}


def sample() -> tuple[Tensor, Tensor]:
    """Four sequences of which the halves hold 9 and 4 real tokens: unequal counts on two ranks."""
    x = torch.randn(4, 5, 4, generator=torch.Generator().manual_seed(4)).double()
    return x, torch.arange(5) < torch.tensor([5, 4, 3, 1])[:, None]


@pytest.mark.parametrize("term", TERMS)
def test_two_ranks_give_value_and_gradient_of_the_global_batch(term: Callable) -> None:
    x, keep = sample()
    gate = Gate()
    whole = term(gate(x, keep))
    whole.backward()

    def one_rank(rank: int) -> tuple[float, list[float]]:
        part = slice(2 * rank, 2 * rank + 2)
        wrapped = DistributedDataParallel(Gate())
        price = term(wrapped(x[part], keep[part]))
        price.backward()
        return price.item(), wrapped.module.map.weight.grad.flatten().tolist()

    expected = gate.map.weight.grad.flatten().tolist()
    assert max(map(abs, expected)) > 1e-3
    for value, gradient in run_ranks(one_rank):
        assert value == pytest.approx(whole.item(), rel=1e-12)
        assert gradient == pytest.approx(expected, rel=1e-10)


def test_without_gradients_ranks_do_not_wait_for_each_other() -> None:
    x, keep = sample()

    def one_rank(rank: int) -> float:
        with torch.no_grad():
            # Rank 1 has a batch more, as at the end of an uneven validation split.
            return sum(load_balance(Gate()(x, keep)).item() for _ in range(1 + rank)) / (1 + rank)

    first, second = run_ranks(one_rank)
    assert first == second
