"""Tasks: losses and metrics by hand, one modality alone, what a checkpoint holds, what stops a run."""

from functools import partial

import lightning as L
import pytest
import torch
from torch.nn import functional as F
from torch.utils.data import DataLoader

from hmmoe.errors import CheckpointError, ConfigError, Diverged
from hmmoe.losses.segments import bce_softmax
from hmmoe.model import AdaptedModel
from hmmoe.optim import Recipe
from tasks.base import only
from tasks.event_localization import EventLocalization
from tasks.visual_reasoning import VisualReasoning
from tests import small

RATES = {"adapters": 1e-2, "router": 2e-3, "head": 1e-2, "backbone": 1e-4}
RECIPE = Recipe(torch.optim.AdamW, lr=RATES)
SPLITS = {"val_splits": ["val"], "test_splits": ["test"]}


def event_task(**options) -> EventLocalization:
    model = AdaptedModel(
        small.towers("vision", "audio", meet="segment"), small.hmmoe(), small.head(classes=4, level="segment")
    )
    return EventLocalization(model, recipe=RECIPE, classes=4, **SPLITS, **options)


def reasoning_task(**options) -> VisualReasoning:
    model = AdaptedModel(small.towers("vision", "text"), small.hmmoe(), small.head(classes=2))
    return VisualReasoning(model, recipe=RECIPE, **SPLITS, **options)


def event_batch(seed: int = 0):
    torch.manual_seed(seed)
    return small.batch("vision", "audio") | {"label": torch.randint(0, 4, (2, 3))}


def reasoning_batch(seed: int = 0):
    torch.manual_seed(seed)
    return small.batch("vision", "text") | {"label": torch.tensor([0, 1]), "group": ["s1", "s1"]}


def trainer(**options) -> L.Trainer:
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", max_epochs=2, **({"enable_checkpointing": False} | quiet | options))


def loader(make, batches: int = 2) -> DataLoader:
    return DataLoader([make(i) for i in range(batches)], batch_size=None)


@pytest.mark.parametrize(("task", "batch"), [(event_task, event_batch), (reasoning_task, reasoning_batch)])
def test_fits_and_reports_every_split(task, batch):
    module, run = task(), trainer()
    run.fit(module, loader(batch), [loader(batch)])
    logged = {"train/loss", "train/acc", "val/loss", "val/acc"}
    assert logged <= set(run.callback_metrics)
    (scores,) = run.test(module, [loader(batch)], verbose=False)
    others = {"audio"} if task is event_task else {"text"}
    assert {"test/acc", *(f"test/acc_only_{m}" for m in ("vision", *others))} <= set(scores)


def test_event_accuracy_counts_segments():
    module, batch = event_task(), event_batch()
    module.eval()
    _, output = module.step(batch, "val")
    by_hand = (output.logits.argmax(-1) == batch["label"]).float().mean()
    torch.testing.assert_close(module.scores["on val"]["acc"].compute(), by_hand)
    torch.testing.assert_close(
        module.price(output, batch), F.cross_entropy(output.logits.view(-1, 4), batch["label"].view(-1))
    )


def test_bce_softmax_is_lavishs_loss():
    logits, labels = torch.randn(6, 4), torch.tensor([0, 1, 2, 3, 0, 1])
    p, y = logits.softmax(-1), F.one_hot(labels, 4)
    torch.testing.assert_close(bce_softmax(logits, labels), -(y * p.log() + (1 - y) * (1 - p).log()).mean())


def test_one_modality_alone_sees_nothing_of_the_others():
    module, batch = event_task(), event_batch()
    small.move(module.model)
    module.eval()
    other = batch | {"audio": torch.randn_like(batch["audio"])}
    first, second = (module.model(only(b, "vision")).logits for b in (batch, other))
    torch.testing.assert_close(first, second, rtol=0, atol=0)
    assert batch["audio"].any(), "the batch itself stays whole"
    assert (module.model(batch).logits - module.model(other).logits).abs().max() > 1e-4


def test_checkpoint_holds_what_trained_and_brings_it_back(tmp_path):
    module, run = reasoning_task(), trainer()
    run.fit(module, loader(reasoning_batch), [loader(reasoning_batch)])
    run.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    stored = torch.load(tmp_path / "a.ckpt", weights_only=True)
    assert stored["fingerprint"] == module.model.fingerprint
    assert not [name for name in stored["state_dict"] if name.startswith("model.backbone")]
    other = reasoning_task()
    trainer().validate(
        other, [loader(reasoning_batch)], ckpt_path=tmp_path / "a.ckpt", verbose=False, weights_only=True
    )
    batch = reasoning_batch(9)
    torch.testing.assert_close(other.eval().model(batch).logits, module.eval().model(batch).logits)


def test_another_backbone_is_refused(tmp_path):
    module, run = reasoning_task(), trainer(max_steps=1)
    run.fit(module, loader(reasoning_batch), [loader(reasoning_batch)])
    run.save_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    other = reasoning_task()
    other.model.fingerprint = "0" * 64
    with pytest.raises(CheckpointError, match="trained on another backbone: fingerprint"):
        trainer().validate(other, [loader(reasoning_batch)], ckpt_path=tmp_path / "a.ckpt", weights_only=True)


def test_balance_weight_moves_the_router():
    routers = []
    for weight in (0.0, 5.0):
        torch.manual_seed(0)
        model = AdaptedModel(small.towers("vision", "text"), small.hmmoe(balance_weight=weight), small.head(classes=2))
        small.move(model)
        module = VisualReasoning(model, recipe=RECIPE, **SPLITS)
        trainer(max_steps=1).fit(module, loader(reasoning_batch, 1), [loader(reasoning_batch, 1)])
        routers.append([p.clone() for p in model.peft.routers.parameters()])
    assert any((a - b).abs().max() > 1e-4 for a, b in zip(*routers, strict=True))


def test_a_loss_that_is_not_finite_stops_the_run():
    def poisoned(seed: int):
        batch = event_batch(seed)
        batch["vision"] = torch.full_like(batch["vision"], float("nan"))
        return batch

    with pytest.raises(Diverged, match=r"the loss is nan in epoch 1, step 0; .* Lower optim\.lr"):
        trainer().fit(event_task(), loader(poisoned), [loader(event_batch)])


def test_roles_get_their_own_rates():
    module = event_task()
    made = RECIPE.build(module.model, 10)["optimizer"]
    rates = {group["name"].removesuffix("_vectors"): group["lr"] for group in made.param_groups}
    assert rates == {key: RATES[key] for key in ("adapters", "router", "head")}
    assert all(group["weight_decay"] == 0 for group in made.param_groups if group["name"].endswith("_vectors"))


def test_schedule_rises_then_falls():
    recipe = Recipe(torch.optim.AdamW, lr=RATES, warmup=0.2, decay="cosine")
    factors = [recipe.factor(step, 100) for step in range(101)]
    assert factors[0] < 0.06 and max(factors) == factors[20] == 1.0 and factors[-1] == pytest.approx(0.0)
    assert factors[:21] == sorted(factors[:21]) and factors[20:] == sorted(factors[20:], reverse=True)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (partial(Recipe, torch.optim.AdamW, lr={"head": 1.0}), r"optim\.lr needs a rate for each of adapters"),
        (partial(Recipe, torch.optim.AdamW, lr=RATES, warmup=2.0), r"optim\.warmup must lie in 0\.\.1"),
        (partial(event_task, loss="mse"), r"task\.loss must be cross_entropy"),
    ],
)
def test_settings_that_cannot_work(make, message, unchecked):
    with pytest.raises(ConfigError, match=message):
        make()
