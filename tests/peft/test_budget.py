"""A budget of parameters becomes the size of any method, found by counting; methods without a size say so."""

import json

import pytest
import torch
from hydra.utils import instantiate
from omegaconf import OmegaConf

import eval as evaluation
import train as training
from hmmoe.budget import candidates, solve, trained
from hmmoe.errors import ConfigError
from hmmoe.model import AdaptedModel
from hmmoe.runtime import restore
from hmmoe.runtime.check import budget_faults
from hmmoe.runtime.sizing import fit
from hmmoe.trainable import counts
from hmmoe.weightless import weightless
from tests import small
from tests.peft.methods import METHODS, factory, loaded, shrink
from tests.runs import composed, tiny

MODALITIES = ("vision", "audio", "text")
SIZELESS = {"full", "linear_probe", "bitfit", "norm_tuning", "ia3"}
SIZED = [name for name in METHODS if name not in SIZELESS]


def make(node):
    return instantiate(node, _convert_="all", _partial_=True)


def node_of(name: str, **budget):
    return OmegaConf.merge(shrink(loaded(name)), {"budget": None, "budget_params": None, **budget})


def beside_the_head(model: AdaptedModel) -> int:
    found = counts(model)
    return found["trained"] - found["head"]


@pytest.mark.parametrize("name", METHODS)
def test_a_weightless_copy_trains_as_many_parameters(name):
    backbone = small.towers(*MODALITIES)
    before = backbone.fingerprint()
    assert trained(backbone, factory(name)) == beside_the_head(small.model(*MODALITIES, peft=factory(name)))
    assert backbone.fingerprint() == before and not any(p.requires_grad for p in backbone.parameters())


@pytest.mark.parametrize("name", SIZED)
def test_the_size_found_is_the_nearest_one(name):
    """Asked for what some size comes to, that size is found; asked for slightly more or less, it still is."""
    backbone = small.towers(*MODALITIES)
    node = node_of(name)
    start = trained(backbone, make(plain(node)))
    for asked in (start, round(start * 1.01), start / sum(p.numel() for p in backbone.parameters())):
        node = node_of(name, **{"budget_params" if asked > 1 else "budget": asked})
        target = asked if asked > 1 else start
        fact = fit(node, backbone, make)
        assert node.budget is None and node.budget_params is None
        assert fact["parameters"] == trained(backbone, make(plain(node)))
        assert abs(fact["parameters"] - target) <= abs(start - target)
        assert fact["share"] == pytest.approx(fact["parameters"] / fact["backbone"])
        assert OmegaConf.select(node, fact["key"].removeprefix("peft.")) == fact["value"]


def plain(node):
    return {k: v for k, v in OmegaConf.to_container(node).items() if k not in ("budget", "budget_params")}


@pytest.mark.parametrize("name", sorted(SIZELESS))
def test_a_method_without_a_size_says_so(name):
    with pytest.raises(ConfigError, match=r"has no size that a budget could set.*such as peft=hmmoe, lora"):
        fit(node_of(name, budget=0.06), small.towers("vision"), make)


@pytest.mark.parametrize(("budget", "words"), [(1e-6, "cannot be reached: sizes 1 to 32 train"), (0.99, "reached")])
def test_a_budget_out_of_reach_names_what_is_in_reach(budget, words):
    backbone = small.towers("vision")
    with pytest.raises(
        ConfigError, match=rf"peft\.budget={budget:g} by peft\.rank: .*{words}.*peft\.budget=0\.0\d+ to"
    ):
        fit(node_of("series_adapter", budget=budget), backbone, make)


def test_sizes_that_a_method_refuses_give_way_to_their_neighbours():
    """A rank that four heads do not divide is no rank of HMMoE."""
    backbone = small.towers("vision", "text")
    node = OmegaConf.merge(node_of("hmmoe", budget=0.3), {"heads": 4})
    fact = fit(node, backbone, make)
    assert fact["value"] % 4 == 0 and node.rank == fact["value"]
    by_rank = {r: trained(backbone, factory("hmmoe", rank=r, heads=4)) for r in (4, 8, 12, 16, 20, 24, 28, 32)}
    assert fact["value"] == min(by_rank, key=lambda r: abs(by_rank[r] - 0.3 * fact["backbone"]))


def test_block_sizes_divide_every_width():
    sites = small.towers(*MODALITIES).sites
    assert candidates(sites, divides=True) == [1, 2, 4, 8]  # 32, 24 and 16 wide
    assert candidates(sites, divides=False) == list(range(1, 33))


@pytest.mark.parametrize("target", [1, 7, 8, 100, 101, 2500, 2501])
@pytest.mark.parametrize("allowed", [1, 3])
def test_solving_is_looking_through_all_sizes(target, allowed):
    sizes = list(range(1, 51))

    def count(size: int) -> int:
        if size % allowed:
            raise ConfigError("no such size")
        return size * size

    possible = [n for n in sizes if n % allowed == 0]
    if not possible[0] ** 2 <= target <= possible[-1] ** 2:
        with pytest.raises(ConfigError, match="cannot be reached"):
            solve(count, sizes, float(target), total=10_000)
        return
    found = solve(count, sizes, float(target), total=10_000)
    assert found.value == min(possible, key=lambda n: (abs(n * n - target), n))
    assert found == (found.value, found.value**2, found.value**2 / 10_000)


def test_where_no_size_can_be_the_method_says_why():
    def count(size: int) -> int:
        raise ConfigError(f"size {size} is refused")

    with pytest.raises(ConfigError, match="is refused"):
        solve(count, [1, 2, 3], 10.0, total=100)


def test_a_weightless_copy_shares_what_is_shared_and_holds_nothing():
    backbone = small.towers("vision", "text")
    copy = weightless(backbone)
    assert all(p.is_meta for p in (*copy.parameters(), *copy.buffers()))
    assert {n: p.shape for n, p in copy.named_parameters()} == {n: p.shape for n, p in backbone.named_parameters()}
    tied = torch.nn.ModuleList([layer := torch.nn.Linear(2, 3), layer])
    assert len(list(weightless(tied).parameters())) == 2


@pytest.mark.parametrize(
    ("peft", "words"),
    [
        ({"budget": 6}, "must be a share"),
        ({"budget": "much"}, "must be a share"),
        ({"budget_params": 0}, "must be a number of parameters"),
        ({"budget": 0.1, "budget_params": 5e6}, "both set"),
    ],
)
def test_budgets_that_are_none(peft, words):
    assert any(words in fault for fault in budget_faults(peft))
    assert not list(budget_faults({"budget": 0.06, "budget_params": None}))


def test_a_run_with_a_budget_is_read_again_from_its_checkpoint(tmp_path, monkeypatch):
    """The folder and the checkpoint hold the size; nobody has to solve for it a second time."""
    for name in (restore.RUN_DIR, restore.HYDRA_DIR):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    run, again = tmp_path / "run", tmp_path / "again"
    words = [*tiny(tmp_path / "data"), "peft.budget=0.02", "trainer.max_epochs=1", f"paths.run_dir={run}"]
    with composed(*words) as cfg:
        training.train(cfg)
    record, result = (json.loads((run / f"{name}.json").read_text()) for name in ("run", "result"))
    settings = OmegaConf.load(run / "config.yaml")
    fact = record["budget"]
    assert fact == result["budget"] and fact["budget"] == 0.02 and fact["key"] == "peft.rank"
    assert settings.peft.rank == fact["value"] != 2 and settings.peft.budget is None
    assert result["parameters"]["trained"] - result["parameters"]["head"] == fact["parameters"]
    assert result["cost"]["checkpoint_bytes"] > result["cost"]["adapter_bytes"] > 4 * fact["parameters"]
    best = run / "checkpoints" / "best.ckpt"
    assert restore.prepare(["eval.py", f"ckpt_path={best}"], evaluate=True) == "checkpoint"
    with composed(f"paths.run_dir={again}", f"ckpt_path={best}", config="checkpoint") as cfg:
        assert cfg.peft.rank == fact["value"]
        evaluation.evaluate(cfg)
    scores = json.loads((again / "result.json").read_text())["metrics"]
    assert scores == {split: result["metrics"][split] for split in ("dev", "test", "hidden")}
