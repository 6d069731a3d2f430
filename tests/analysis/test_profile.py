"""Counts, FLOPs and bytes from shapes alone, against what really runs and against arithmetic."""

import csv
import json
from functools import partial

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from hmmoe.analysis.profile import dry
from hmmoe.analysis.profile.batch import blank
from hmmoe.analysis.profile.forward import cost
from hmmoe.analysis.profile.live import LiveBytes
from hmmoe.analysis.profile.meta import OnMeta
from hmmoe.analysis.profile.parts import parameters, stored_bytes
from hmmoe.model import AdaptedModel
from hmmoe.peft.policies import NormTuning
from hmmoe.runtime import profiling
from hmmoe.trainable import counts, own_state
from hmmoe.weightless import weightless
from tests import small
from tests.peft.methods import factory
from tests.runs import TINY_BERT, TINY_VIT, at

INPUTS = {"vision": {"size": 32}, "audio": {"mels": 32, "frames": 48}, "text": {"length": 8}}
MODALITIES = tuple(INPUTS)
adam = partial(torch.optim.Adam, lr=1e-3)


def on_meta(name: str, *modalities: str) -> AdaptedModel:
    with torch.device("meta"):
        return AdaptedModel(weightless(small.towers(*modalities)), factory(name), small.head())


def optimizer(model):
    return adam([p for p in model.parameters() if p.requires_grad])


def test_live_bytes_are_those_of_a_computation_done_by_hand():
    layer = nn.Linear(1000, 500, bias=False)
    x = torch.randn(20, 1000)
    for device in ("cpu", "meta"):
        layer, x = layer.to(device), x.to(device)
        with torch.no_grad(), LiveBytes().hold(layer) as live:
            assert live.peak == 4 * 500_000
            y = layer(x)
            z = y.view(100, 100).transpose(0, 1)
            assert live.now == live.peak == 4 * (500_000 + 10_000), "views cost nothing"
            w = z + 1
            del y, z
            assert live.now == 4 * (500_000 + 10_000) and live.peak == 4 * (500_000 + 20_000)
            del w
            assert live.now == 4 * 500_000


def test_what_the_backward_pass_needs_stays_alive():
    layer = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64)).to("meta")
    x = torch.empty(1000, 64, device="meta")
    weights = 4 * sum(p.numel() for p in layer.parameters())
    with torch.no_grad(), LiveBytes().hold(layer) as idle:
        layer(x)
    with LiveBytes().hold(layer) as live:
        y = layer(x)
        assert live.now == weights + 3 * 4 * 64_000, "input of GELU, its output, the result"
        y.sum().backward()
        assert live.now == weights * 2 + 4 * 64_000, "gradients, and the result"
    assert idle.peak == weights + 2 * 4 * 64_000


@pytest.mark.parametrize("masked", [False, True])
def test_fused_attention_has_the_plain_ones_flops_and_none_of_its_scores(masked):
    q, k, v = (torch.empty(2, 4, n, 16, device="meta", requires_grad=True) for n in (512, 256, 256))
    mask = torch.ones(2, 1, 1, 256, dtype=torch.bool, device="meta") if masked else None
    found = []
    for mode in (OnMeta(), torch.autograd.profiler.record_function("plain")):
        with mode, LiveBytes() as live, FlopCounterMode(display=False) as counter:
            out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
            forward = counter.get_total_flops()
            out.sum().backward()
        assert out.shape == (2, 4, 512, 16) and q.grad.shape == q.shape
        found.append((forward, live.peak))
    scores = 4 * 2 * 4 * 512 * 256
    assert found[0][0] == found[1][0] == 2 * 2 * 2 * 4 * 512 * 256 * 16
    assert found[0][1] < scores / 2 < scores < found[1][1]


def test_fused_attention_without_an_axis_of_heads():
    q, k = torch.empty(3, 5, 8, device="meta"), torch.empty(3, 7, 8, device="meta")
    keep = torch.ones(3, 1, 7, dtype=torch.bool, device="meta")
    with OnMeta():
        assert F.scaled_dot_product_attention(q, k, k, attn_mask=keep, scale=1.0).shape == (3, 5, 8)


@pytest.mark.parametrize("name", ["hmmoe", "lora", "lavish", "dora", "compacter", "linear_probe"])
def test_shapes_alone_give_the_flops_of_the_real_pass(name):
    batch = small.batch(*MODALITIES)
    real = cost(small.model(*MODALITIES, peft=factory(name)), batch, repeats=1)
    assert dry.forward(on_meta(name, *MODALITIES), batch)["flops_per_sample"] == real["flops_per_sample"]


def test_training_costs_more_than_a_forward_pass_and_less_than_training_everything():
    batch = blank(INPUTS, {"audio": 2}, size=3)
    found = {}
    for name in ("linear_probe", "hmmoe", "full"):
        found[name] = dry.training_step(on_meta(name, "audio", "text"), batch, optimizer)
        found[name] |= dry.forward(on_meta(name, "audio", "text"), batch)
    for key in ("training_flops_per_sample", "peak_training_bytes"):
        assert found["linear_probe"][key] < found["hmmoe"][key]
        assert found["linear_probe"][key] < found["full"][key]
    assert all(one["training_flops_per_sample"] > one["flops_per_sample"] for one in found.values())
    assert all(one["peak_training_bytes"] > one["peak_inference_bytes"] for one in found.values())


def test_peak_grows_with_the_batch_by_activations_alone():
    peaks = [
        dry.training_step(on_meta("hmmoe", "vision"), blank(INPUTS, {}, size=size), optimizer)["peak_training_bytes"]
        for size in (8, 16, 24)
    ]
    assert peaks[1] - peaks[0] == pytest.approx(peaks[2] - peaks[1], rel=0.05)


@pytest.mark.parametrize("name", ["hmmoe", "lora_fa", "avmoe", "norm_tuning", "bitfit", "full", "vera"])
def test_parts_add_up(name):
    model = small.model(*MODALITIES, peft=factory(name))
    backbone = sum(p.numel() for p in small.towers(*MODALITIES).parameters())
    found, known = parameters(model, backbone), counts(model)
    parts = sum(found[part] for part in ("adapters", "routers", "heads", "norms", "other"))
    assert parts == found["trained"] == known["trained"]
    assert found["trained"] + found["frozen"] == known["total"]
    assert found["heads"] == known["head"] and found["routers"] == known["router"]
    assert found["share_of_backbone_percent"] == pytest.approx(100 * (parts - found["heads"]) / backbone)
    assert (found["norms"] > 0) == (name in ("norm_tuning", "bitfit", "full"))


def test_norms_are_what_norm_tuning_trains():
    found = parameters(small.model("vision", peft=NormTuning), 1)
    assert found["norms"] == found["trained"] - found["heads"] and found["other"] == 0


def test_bytes_are_those_of_the_saved_state():
    model = small.model("vision", peft=factory("lora_fa"))
    own = own_state(model)
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert stored_bytes(model)["adapter_bytes"] == sum(t.numel() * t.element_size() for t in own.values())
    assert stored_bytes(model)["checkpoint_bytes"] == stored_bytes(model)["adapter_bytes"] + 8 * trained


WORDS = [
    "experiment=nlvr_hmmoe",
    "scale=mini",
    "task.head.hidden=8",
    "backbone.inputs.vision.size=32",
    *at("backbone.towers.vision", TINY_VIT),
    *at("backbone.towers.text", TINY_BERT),
]


def test_the_command_measures_and_saves_a_table(tmp_path, capsys):
    words = [*WORDS, "peft=hmmoe,linear_probe", "--batch-sizes=1,2", "--out", str(tmp_path)]
    assert profiling.main([*words, "--segments=vision=2", "--repeats=1"]) == 0
    saved = json.loads((tmp_path / "profile.json").read_text())
    rows = {row["method"]: row for row in saved["rows"]}
    assert set(rows) == {"hmmoe", "linear_probe"} and all(row["error"] is None for row in rows.values())
    assert rows["hmmoe"]["sample"] == {"vision": 2, "text": 1}
    assert rows["hmmoe"]["parameters"]["routers"] > 0 and rows["linear_probe"]["parameters"]["adapters"] == 0
    assert rows["hmmoe"]["flops_per_sample"] > rows["linear_probe"]["flops_per_sample"]
    assert all(row["by_batch_size"]["2"]["latency_ms"] > 0 for row in rows.values())
    with (tmp_path / "profile.csv").open(newline="") as file:
        assert [line["method"] for line in csv.DictReader(file)] == ["hmmoe", "linear_probe"]
    page = (tmp_path / "profile.md").read_text()
    assert "trained without heads / parameters of the backbone" in page and "| hmmoe |" in page
    assert "| method" not in capsys.readouterr().err


def test_segments_come_from_the_data(tmp_path):
    assert profiling.main([*WORDS, "--no-latency", "--batch-sizes=1", "--out", str(tmp_path)]) == 0
    row = json.loads((tmp_path / "profile.json").read_text())["rows"][0]
    assert row["sample"] == {"vision": 3, "text": 1} and "latency_ms" not in row["by_batch_size"]["1"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["experiment=ave_hmmoe", "peft.rnk=3"], "peft.rank"),
        (["experiment=ave_hmmoe", "peft=hmoe"], "hmmoe"),
        (["peft=lora"], "experiment"),
        (["experiment=ave_hmmoe", "--batch-sizes=0"], "--batch-sizes=0"),
        (["experiment=ave_hmmoe", "--segments=vision"], "--segments=vision"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(words, message, capsys, tmp_path):
    code = profiling.main([*words, "--out", str(tmp_path)])
    told = capsys.readouterr().err
    page = tmp_path / "profile.json"
    assert (code == 2 and message in told) or message in json.loads(page.read_text())["rows"][0]["error"]


def test_a_refused_combination_is_a_row_that_says_why(tmp_path):
    words = ["peft=series_adapter,ia3", "peft.budget=0.003"]
    assert profiling.main([*WORDS, *words, "--no-latency", "--batch-sizes=1", "--out", str(tmp_path)]) == 0
    series, ia3 = json.loads((tmp_path / "profile.json").read_text())["rows"]
    rank = series["budget"]["value"]
    assert f"| rank={rank} |" in (tmp_path / "profile.md").read_text()
    assert series["budget"]["key"] == "peft.rank" and "no size that a budget could set" in ia3["error"]
    assert series["parameters"]["share_of_backbone_percent"] == pytest.approx(0.3, abs=0.03)


def test_all_methods_are_the_files_of_the_folder():
    labels = [label for label, _ in profiling.combinations(["experiment=ave_hmmoe", "peft=all", "seed=1,2"])]
    assert len(labels) == 2 * len(set(label.split()[0] for label in labels)) and "hmmoe seed=2" in labels
