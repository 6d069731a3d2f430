"""Question answering: hard and soft targets, parts of the score, test sets without answers."""

import lightning as L
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from hmmoe.errors import ConfigError
from hmmoe.model import AdaptedModel
from hmmoe.optim import Recipe
from hmmoe.types import OUTSIDE
from tasks.question_answering import QuestionAnswering
from tests import small

RATES = {"adapters": 1e-2, "router": 2e-3, "head": 1e-2, "backbone": 1e-4}
PARTS = {"counting": ["Audio/Counting", "Visual/Counting"], "audio": ["Audio/Counting"], "smell": ["Smell/Counting"]}
KINDS = ["Audio/Counting", "Visual/Counting", "Visual/Location", "Audio/Counting"]


def task(**options) -> QuestionAnswering:
    model = AdaptedModel(small.towers("vision", "text"), small.hmmoe(), small.head(classes=5))
    recipe = Recipe(torch.optim.AdamW, lr=RATES)
    settings = {"answers": 5, "parts": PARTS, "val_splits": ["val"], "test_splits": ["test"]} | options
    return QuestionAnswering(model, recipe=recipe, **settings)


def hard_batch(seed: int = 0) -> dict:
    torch.manual_seed(seed)
    return small.batch("vision", "text", size=4) | {"label": torch.tensor([0, 1, 4, 2]), "kind": KINDS}


def soft_batch(seed: int = 0) -> dict:
    torch.manual_seed(seed)
    label, score = torch.zeros(4, 5), torch.zeros(4, 5)
    label[0, 1], label[0, 2], label[1, 3], label[2, 0] = 1.0, 0.3, 0.6, 0.9
    score[0, 1], score[0, 2], score[1, 3] = 1.0, 0.3, 0.6  # the third's answer is not normalised by the evaluator
    return small.batch("vision", "text", size=4) | {"label": label, "score": score, "kind": KINDS}


def unanswered_batch(seed: int = 0) -> dict:
    torch.manual_seed(seed)
    return small.batch("vision", "text", size=4)


def trainer() -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", max_epochs=1, enable_checkpointing=False, **quiet)


def loader(make) -> DataLoader:
    return DataLoader([make(i) for i in range(2)], batch_size=None)


def output_of(module: QuestionAnswering, logits: torch.Tensor, batch: dict):
    return module.model(batch)._replace(logits=logits)


@pytest.mark.parametrize(("make", "loss"), [(hard_batch, "cross_entropy"), (soft_batch, "bce")])
def test_fits_and_reports_overall_and_by_part(make, loss):
    module, run = task(loss=loss), trainer()
    run.fit(module, loader(make), [loader(make)])
    assert {"train/acc", "val/acc", "val/acc_counting", "val/acc_audio"} <= set(run.callback_metrics)
    (scores,) = run.test(module, [loader(make)], verbose=False)
    assert {"test/acc", "test/acc_audio", "test/acc_only_vision", "test/acc_counting_only_text"} <= set(scores)
    assert not [name for name in scores if "smell" in name], "no question of that kind was asked"


def test_single_answers_are_priced_by_cross_entropy_and_counted():
    module, batch = task(), hard_batch()
    logits = torch.tensor([[9.0, 0, 0, 0, 0], [9, 0, 0, 0, 0], [0, 0, 0, 0, 9], [0, 0, 9, 0, 0]])
    output = output_of(module, logits, batch)
    torch.testing.assert_close(module.price(output, batch), F.cross_entropy(logits, batch["label"]))
    metrics = module.scores["on val"]
    module.count(metrics, output, batch)
    scores = {name: metrics[name].compute().item() for name in ("acc", "acc_counting", "acc_audio")}
    assert scores == pytest.approx({"acc": 3 / 4, "acc_counting": 2 / 3, "acc_audio": 1.0})


def test_an_answer_outside_the_list_is_wrong_and_teaches_nothing():
    module, batch = task(), hard_batch()
    batch["label"] = torch.tensor([0, OUTSIDE, OUTSIDE, 2])
    logits = torch.randn(4, 5)
    expected = F.cross_entropy(logits[[0, 3]], torch.tensor([0, 2]))
    torch.testing.assert_close(module.price(output_of(module, logits, batch), batch), expected)
    batch["label"] = torch.full((4,), OUTSIDE)
    assert module.price(output_of(module, logits, batch), batch) == 0.0
    module.count(module.scores["on val"], output_of(module, logits, batch), batch)
    assert module.scores["on val"]["acc"].compute() == 0.0


def test_soft_targets_are_priced_as_in_vlmo_and_scored_officially():
    module, batch = task(loss="bce"), soft_batch()
    logits = torch.full((4, 5), -3.0)
    for row, answer in enumerate((2, 3, 0, 4)):
        logits[row, answer] = 2.0
    output = output_of(module, logits, batch)
    p, y = logits.sigmoid(), batch["label"]
    by_hand = -(y * p.log() + (1 - y) * (1 - p).log()).sum(1).mean()
    torch.testing.assert_close(module.price(output, batch), by_hand)
    module.count(module.scores["on val"], output, batch)
    assert module.scores["on val"]["acc"].compute().item() == pytest.approx((0.3 + 0.6) / 4)
    columns = module.predict(output, batch)
    assert columns["prediction"] == [2, 3, 0, 4]
    assert columns["label"][:3] == [1, 3, 0]
    assert columns["score"] == pytest.approx([0.3, 0.6, 0.0, 0.0])


def test_a_test_set_without_answers_is_predicted_and_not_scored():
    module, run = task(test_splits=["server"]), trainer()
    run.fit(module, loader(hard_batch), [loader(hard_batch)])
    (scores,) = run.test(module, [loader(unanswered_batch)], verbose=False)
    assert scores == {}
    columns = module.test_step(unanswered_batch(), 0)
    assert len(columns["prediction"]) == 4 and "label" not in columns


@pytest.mark.parametrize(
    ("options", "make", "message"),
    [
        ({}, soft_batch, r"task\.loss=cross_entropy with task\.answers=5: found targets \(4, 5\) \(soft\)"),
        ({"loss": "bce"}, hard_batch, r"task\.loss=bce .*one answer each"),
        ({"answers": 6}, hard_batch, r"task\.answers=6.*logits \(4, 5\)"),
    ],
)
def test_targets_that_do_not_go_with_the_loss_are_named(options, make, message):
    module, batch = task(**options), make()
    with pytest.raises(ConfigError, match=message):
        module.price(module.model(batch), batch)


def test_an_unknown_loss_is_named(unchecked):
    with pytest.raises(ConfigError, match=r"task\.loss must be cross_entropy or bce"):
        task(loss="mse")
