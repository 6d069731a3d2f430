"""What a method may do around the optimizer's steps: told how many there are, called after each, priced, resumed."""

import lightning as L
import pytest
import torch
from torch.utils.data import DataLoader

from hmmoe.model import AdaptedModel
from hmmoe.optim import Recipe
from hmmoe.peft.lora import LoRA
from tasks.visual_reasoning import VisualReasoning
from tests import small
from tests.peft.methods import factory

RECIPE = Recipe(torch.optim.SGD, lr=dict.fromkeys(("adapters", "router", "head", "backbone"), 0.05))


class Recording(LoRA):
    """LoRA that writes down what it is told."""

    def __init__(self, sites):
        super().__init__(sites, rank=2)
        self.told, self.steps = 0, []

    def begin(self, steps):
        self.told = steps

    def penalty(self):
        return torch.tensor(7.0)

    def after_step(self, step):
        self.steps.append(step)

    def schedule(self):
        return {"steps": list(self.steps)}

    def resume(self, schedule):
        self.steps = schedule["steps"]


class StopAfterOneEpoch(L.Callback):
    """As a kill between epochs: the schedule is laid over all of them."""

    def on_train_epoch_end(self, trainer, pl_module):
        trainer.should_stop = True


def task(method):
    torch.manual_seed(3)
    model = AdaptedModel(small.towers("vision"), method, small.head(classes=2))
    return VisualReasoning(model, recipe=RECIPE, val_splits=["val"], test_splits=["test"], single_modality=False)


def loader():
    batches = []
    for seed in range(4):
        torch.manual_seed(seed)
        batches.append(small.batch("vision") | {"label": torch.tensor([0, 1]), "group": ["s1", "s2"]})
    return DataLoader(batches, batch_size=None)


def trainer(epochs, **options):
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    return L.Trainer(accelerator="cpu", max_epochs=epochs, enable_checkpointing=False, **quiet, **options)


@pytest.mark.parametrize("accumulate", [1, 2])
def test_a_method_sees_every_optimizer_step_once(accumulate):
    module, run = task(Recording), trainer(2, accumulate_grad_batches=accumulate)
    run.fit(module, loader(), [loader()])
    peft = module.model.peft
    assert peft.told == 8 // accumulate and peft.steps == list(range(1, 8 // accumulate + 1))
    assert run.callback_metrics["train/penalty"] == 7


def test_the_schedule_goes_through_the_checkpoint(tmp_path):
    module, run = task(Recording), trainer(1)
    run.fit(module, loader(), [loader()])
    run.save_checkpoint(tmp_path / "last.ckpt")
    again = task(Recording)
    trainer(2).fit(again, loader(), [loader()], ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert again.model.peft.steps == list(range(1, 9))


def test_adalora_s_rank_falls_in_a_run_and_a_resumed_one_ends_the_same(tmp_path):
    method = factory("adalora", start=0.1, settle=0.3)
    whole, first, second = task(method), task(method), task(method)
    trainer(2).fit(whole, loader(), [loader()])
    half = trainer(2, callbacks=[StopAfterOneEpoch()])
    half.fit(first, loader(), [loader()])
    half.save_checkpoint(tmp_path / "last.ckpt")
    trainer(2).fit(second, loader(), [loader()], ckpt_path=tmp_path / "last.ckpt", weights_only=True)
    assert sum(whole.model.peft.ranks().values()) == 2 * 6, "target_r on six layers"
    assert whole.model.peft.ranks() == second.model.peft.ranks()
    for name, tensor in second.model.state_dict().items():
        torch.testing.assert_close(tensor, whole.model.state_dict()[name], rtol=1e-6, atol=1e-7)
