"""Retrieval: neither side sees the other, passes are counted, further sentences, the loss on one process and on two."""

from functools import partial

import lightning as L
import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from hmmoe.errors import ConfigError
from hmmoe.heads.projection import CLIP, TEXT, ProjectionHead
from hmmoe.losses.contrast import contrast
from hmmoe.model import AdaptedModel
from hmmoe.optim import Recipe
from tasks.retrieval import ClipRetrieval
from tests import small
from tests.backbones import valor_small
from tests.ranks import run_ranks

RATES = {"adapters": 1e-2, "router": 2e-3, "head": 1e-2, "backbone": 1e-4}
SPLITS = {"val_splits": ["val"], "test_splits": ["test"]}


def task(backbone: nn.Module | None = None, **options) -> ClipRetrieval:
    backbone = backbone or small.towers("vision", "audio", "text")
    model = AdaptedModel(backbone, small.hmmoe(), partial(ProjectionHead, dim=8))
    small.move(model)
    return ClipRetrieval(model, recipe=Recipe(torch.optim.AdamW, lr=RATES), **SPLITS, **options)


def batch(seed: int = 0, more: int = 3) -> dict:
    torch.manual_seed(seed)
    made = small.batch("vision", "audio", "text", size=4)
    made["id"] = [f"clip{seed}{i}" for i in range(4)]
    made["sentence"] = [f"{clip}#0" for clip in made["id"]]
    if more:
        clips = [made["id"][i % 2] for i in range(more)]
        keep = torch.ones(more, 8, dtype=torch.bool)
        names = [f"{clip}#{1 + i}" for i, clip in enumerate(clips)]
        made["more"] = {"ids": torch.randint(1, 50, (more, 8)), "keep": keep, "names": names, "clip": clips}
    return made


def loader(batches: int = 2) -> DataLoader:
    return DataLoader([batch(i) for i in range(batches)], batch_size=None)


def trainer() -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", max_epochs=1, enable_checkpointing=False, **quiet)


def dual() -> tuple[nn.Module, dict]:
    given = valor_small.batch("base", frames=3)
    text = {key: given["text"][key] for key in ("ids", "keep")}
    return valor_small.valor("base", cross=False), given | {"text": text, "sentence": ["a#0", "b#0"]}


@pytest.mark.parametrize("joined", [True, False])
def test_a_clips_vector_does_not_depend_on_the_text_beside_it(joined: bool):
    backbone, given = (small.towers("vision", "audio", "text"), batch()) if joined else dual()
    module = task(backbone).eval()
    assert module.apart == (not joined)
    ids = given["text"]["ids"]
    other = given | {"text": {"ids": ids.flip(0) * (ids > 0), "keep": given["text"]["keep"]}}
    elsewhere = {m: torch.randn_like(given[m]) for m in ("vision", "audio")}
    with torch.no_grad():
        first, texts, clips = (module.encode(b).logits for b in (given, other, given | elsewhere))
    assert torch.equal(first[:, CLIP], texts[:, CLIP]) and (first[:, TEXT] - texts[:, TEXT]).abs().max() > 1e-4
    assert torch.equal(first[:, TEXT], clips[:, TEXT]) and (first[:, CLIP] - clips[:, CLIP]).abs().max() > 1e-4


def test_a_joint_pass_would_leak():
    module, given = task().eval(), batch()
    other = given | {"text": {"ids": given["text"]["ids"].flip(0), "keep": given["text"]["keep"]}}
    with torch.no_grad():
        assert (module.model(given).logits[:, CLIP] - module.model(other).logits[:, CLIP]).abs().max() > 1e-5


def test_rows_of_a_batch_stand_alone():
    module, whole = task().eval(), batch(more=0)
    part = {k: whole[k][2:] for k in ("id", "sentence", "vision", "audio")}
    part["text"] = {k: v[2:] for k, v in whole["text"].items()}
    with torch.no_grad():
        torch.testing.assert_close(module.encode(whole).logits[2:], module.encode(part).logits, rtol=1e-4, atol=1e-5)


def test_n_clips_and_m_sentences_take_as_many_passes(monkeypatch: pytest.MonkeyPatch):
    module, rows = task(single_modality=False).eval(), []
    inner = module.model.forward
    monkeypatch.setattr(module.model, "forward", lambda b: rows.append(len(b["text"]["ids"])) or inner(b))
    with torch.no_grad():
        module.step(batch(more=5), "val")
    assert rows == [4, 4, 4, 1], "four clips, their sentences, then five further ones in parts of four"


def test_fits_and_reports_both_directions():
    module, run = task(), trainer()
    run.fit(module, loader(), [loader()])
    assert {"train/loss", "val/loss", "val/t2v_R1", "val/v2t_MedR"} <= set(run.callback_metrics)
    (scores,) = run.test(module, [loader()], verbose=False)
    assert {"test/t2v_R10", "test/v2t_MeanR", "test/t2v_R1_only_vision", "test/t2v_R1_only_audio"} <= set(scores)
    rows = module.rows_at_end["test"]
    assert len(rows) == 2 * (4 + 3) and {row["label"] for row in rows} == {f"clip{s}{i}" for s in "01" for i in "0123"}
    best = [row["rank"] == 1 for row in rows]
    assert sum(best) / len(rows) == pytest.approx(scores["test/t2v_R1"], abs=1e-6)
    assert all(row["prediction"] == row["label"] for row, first in zip(rows, best, strict=True) if first)
    matrix = module.arrays_at_end["test_similarity"]
    assert matrix["scores"].shape == (len(matrix["sentences"]), len(matrix["clips"])) == (len(rows), 8)
    lines, column = dict(zip(matrix["sentences"], matrix["scores"], strict=True)), matrix["clips"].tolist()
    for row in rows:
        line = lines[row["id"]]
        assert (line >= line[column.index(row["label"])]).sum() == row["rank"]


def test_the_loss_is_clips():
    a, b = (F.normalize(torch.randn(5, 3), dim=-1) for _ in range(2))
    logits = a @ b.T / 0.1
    by_hand = -(logits.log_softmax(1).diagonal() + logits.log_softmax(0).diagonal()).mean() / 2
    torch.testing.assert_close(contrast(a, b, torch.tensor(0.1)), by_hand)


def test_two_processes_give_the_loss_and_gradient_of_one():
    torch.manual_seed(3)
    a, b = torch.randn(6, 4), torch.randn(6, 4)

    def one_rank(rank: int) -> tuple[float, list]:
        own = slice(3 * rank, 3 * rank + 3)
        first = a[own].clone().requires_grad_()
        loss = contrast(first, b[own], torch.tensor(0.5), gather=True)
        loss.backward()
        return loss.item(), (first.grad / 2).tolist()

    whole = a.clone().requires_grad_()
    loss = contrast(whole, b, torch.tensor(0.5))
    loss.backward()
    ranks = run_ranks(one_rank)
    assert sum(value for value, _ in ranks) / 2 == pytest.approx(loss.item(), abs=1e-6)
    torch.testing.assert_close(torch.tensor(ranks[0][1] + ranks[1][1]), whole.grad)


def test_another_head_is_refused():
    model = AdaptedModel(small.towers("vision", "text"), small.hmmoe(), small.head())
    with pytest.raises(ConfigError, match=r"task\.head is FusionHead"):
        ClipRetrieval(model, recipe=Recipe(torch.optim.AdamW, lr=RATES), **SPLITS)
