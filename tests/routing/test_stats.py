"""Shares by a formula, padding out, batches and ranks summed."""

import math

import pytest
import torch
from torch import Tensor

from hmmoe.routing.stats import RoutingStats
from hmmoe.routing.usage import Usage
from hmmoe.types import Routing
from tests.ranks import run_ranks

GROUPS = ("single", "cross:audio", "channel:audio")


def make(group: Tensor, local: Tensor, keep: Tensor | None = None, sizes: tuple[int, ...] = (2, 2, 2)) -> Routing:
    """A two-level routing with k = 1 from group weights (S,N,G) and local probabilities (S,N,G,E)."""
    selected = local == local.amax(-1, keepdim=True)
    return Routing(group, local * selected, selected, local, keep, GROUPS, sizes)


def constant(first: float = 0.75, keep: Tensor | None = None, shape: tuple[int, int] = (2, 5)) -> Routing:
    """Every token: groups 0.5, 0.3, 0.2; of each group expert 0 with probability ``first``."""
    group = torch.tensor([0.5, 0.3, 0.2]).expand(*shape, 3)
    return make(group, torch.tensor([first, 1 - first]).expand(*shape, 3, 2), keep)


def table(*updates: dict, **options: float) -> dict[tuple, Usage]:
    stats = RoutingStats(**options)
    for update in updates:
        stats.update(update)
    return {(row.site, row.modality, row.level, row.group, row.expert): row for row in stats.compute()}


def test_shares_ratios_and_entropies_follow_the_formulas() -> None:
    rows = table({("site00", "vision"): constant(0.75)})
    group = rows["site00", "vision", "group", "cross:audio", None]
    assert group.weight_share == pytest.approx(0.3)
    assert group.selection_share == pytest.approx(1 / 3)
    assert group.ratio == pytest.approx(0.9)
    entropy = -sum(p * math.log(p) for p in (0.5, 0.3, 0.2)) / math.log(3)
    assert group.entropy == pytest.approx(entropy, rel=1e-6)
    assert group.token_entropy == pytest.approx(entropy, rel=1e-6)
    assert group.tokens == 10
    first, second = (rows["site00", "vision", "expert", "cross:audio", e] for e in (0, 1))
    assert (first.weight_share, first.selection_share, first.ratio, first.dead) == (1.0, 1.0, 2.0, False)
    assert (second.weight_share, second.selection_share, second.ratio, second.dead) == (0.0, 0.0, 0.0, True)
    assert first.entropy == 0.0
    doubt = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert first.token_entropy == pytest.approx(doubt, rel=1e-6)


def test_decided_tokens_that_disagree_are_balanced_in_sum_and_certain_each() -> None:
    local = torch.tensor([[1.0, 0.0], [0.0, 1.0]])[None, :, None, :].expand(1, 2, 3, 2)
    row = table({("s", "v"): make(torch.eye(3)[:2][None], local)})["s", "v", "expert", "single", 0]
    # Only the first token gives group "single" weight, so only its expert 0 worked there.
    assert (row.weight_share, row.selection_share, row.token_entropy) == (1.0, 0.5, 0.0)
    decided = make(torch.eye(3)[None], local[:, :1].expand(1, 3, 3, 2))
    group = table({("s", "v"): decided})["s", "v", "group", "single", None]
    assert (group.entropy, group.token_entropy) == (pytest.approx(1.0), 0.0)


def test_padding_does_not_count_even_where_it_holds_nan() -> None:
    routing = constant()
    keep = torch.tensor([[True] * 5, [True] * 2 + [False] * 3])
    poisoned = routing._replace(group_weights=routing.group_weights.masked_fill(~keep[..., None], math.nan), keep=keep)
    rows = table({("s", "v"): poisoned})
    assert rows["s", "v", "group", "single", None].tokens == 7
    assert rows["s", "v", "group", "single", None].weight_share == pytest.approx(0.5)


def test_batches_weigh_by_their_tokens() -> None:
    many, few = constant(0.75, shape=(4, 4)), constant(0.25, shape=(1, 4))
    row = table({("s", "v"): many}, {("s", "v"): few})["s", "v", "expert", "single", 0]
    assert row.weight_share == pytest.approx(16 / 20)
    assert row.tokens == 20


def test_streams_of_other_shapes_stay_apart() -> None:
    generator = torch.Generator().manual_seed(0)

    def draw(rows: int, tokens: int) -> Routing:
        group = torch.randn(rows, tokens, 3, generator=generator).softmax(-1)
        return make(group, torch.randn(rows, tokens, 3, 2, generator=generator).softmax(-1))

    batch = {(f"site{i:02d}", m): draw(2, n) for i in range(3) for m, n in (("vision", 7), ("audio", 4))}
    together = table(batch)
    for (site, modality), routing in batch.items():
        alone = table({(site, modality): routing})
        for key, row in alone.items():
            assert row._replace(depth=0) == together[key]._replace(depth=0)
        assert together[site, modality, "group", "single", None].depth == int(site[-2:])
        expected = routing.weights.sum((0, 1, 3)) / routing.weights.sum()
        found = [together[site, modality, "group", g, None].weight_share for g in GROUPS]
        torch.testing.assert_close(torch.tensor(found), expected)


def test_a_group_of_one_is_never_dead_and_padded_experts_have_no_row() -> None:
    group = torch.tensor([0.5, 0.5, 0.0]).expand(1, 3, 3)
    local = torch.tensor([[1.0, 0.0], [0.6, 0.4], [0.6, 0.4]]).expand(1, 3, 3, 2)
    rows = table({("s", "v"): make(group, local, sizes=(1, 2, 2))})
    assert ("s", "v", "expert", "single", 1) not in rows
    alone = rows["s", "v", "expert", "single", 0]
    assert (alone.ratio, alone.entropy, alone.dead) == (1.0, 1.0, False)
    assert rows["s", "v", "group", "channel:audio", None].dead
    assert rows["s", "v", "expert", "channel:audio", 0].weight_share == 0.0


def test_dead_below_moves_the_line() -> None:
    batch = {("s", "v"): constant(shape=(1, 10))}
    assert not table(batch, dead_below=0.5)["s", "v", "group", "channel:audio", None].dead
    assert table(batch, dead_below=0.7)["s", "v", "group", "channel:audio", None].dead
    with pytest.raises(ValueError, match="dead_below"):
        RoutingStats(dead_below=2.0)


def test_reset_starts_again_and_nothing_holds_a_graph() -> None:
    stats = RoutingStats()
    group = torch.full((1, 4, 3), 1 / 3, requires_grad=True)
    stats.update({("s", "v"): constant(shape=(1, 4))._replace(group_weights=group)})
    assert not stats.tally.requires_grad
    stats.reset()
    stats.update({("s", "v"): constant(shape=(1, 4))})
    assert {row.tokens for row in stats.compute()} == {4}


def test_an_unexpected_site_is_named() -> None:
    stats = RoutingStats()
    stats.update({("s", "v"): constant()})
    with pytest.raises(ValueError, match=r"routing of \('t', 'v'\)"):
        stats.update({("t", "v"): constant()})


def test_two_ranks_give_the_table_of_the_global_batch() -> None:
    many, few = constant(0.75, shape=(4, 4)), constant(0.25, shape=(1, 4))

    def one_rank(rank: int) -> list[Usage]:
        stats = RoutingStats()
        stats.update({("s", "v"): (many, few)[rank]})
        return stats.compute()

    whole = list(table({("s", "v"): many}, {("s", "v"): few}).values())
    assert run_ranks(one_rank) == [whole, whole]
