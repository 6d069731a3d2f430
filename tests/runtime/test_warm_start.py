"""Starting from another run's adapters: the same numbers, or a refusal that says why."""

import json
from functools import partial

import pytest
import torch
from safetensors.torch import save_file

from hmmoe.errors import CheckpointError
from hmmoe.peft.lora import LoRA
from hmmoe.runtime.warm_start import identity, warm_start
from hmmoe.trainable import own_state
from tests import small


def saved(model, path, fingerprint=None):
    header = {"fingerprint": json.dumps(fingerprint or model.fingerprint)}
    save_file({k: v.contiguous() for k, v in own_state(model).items()}, path, metadata=header)
    return path


@pytest.mark.parametrize("suffix", ["safetensors", "ckpt"])
def test_a_warm_start_gives_the_same_outputs(tmp_path, suffix):
    model = small.model("vision", "text").eval()
    small.move(model)
    path = tmp_path / f"adapter.{suffix}"
    if suffix == "ckpt":
        state = {f"model.{k}": v for k, v in own_state(model).items()}
        torch.save({"state_dict": state, "fingerprint": model.fingerprint}, path)
    else:
        saved(model, path)
    torch.manual_seed(5)
    other = small.model("vision", "text").eval()
    batch = small.batch("vision", "text")
    assert (other(batch).logits - model(batch).logits).abs().max() > 1e-3
    warm_start(other, path)
    torch.testing.assert_close(other(batch).logits, model(batch).logits, rtol=0, atol=0)
    assert len(identity(path)["sha256"]) == 64


def test_a_file_that_is_no_checkpoint_is_refused(tmp_path):
    torch.save({"weights": torch.zeros(1)}, tmp_path / "other.ckpt")
    with pytest.raises(CheckpointError, match=r"no checkpoint of a run.*adapter\.safetensors"):
        warm_start(small.model("vision", "text"), tmp_path / "other.ckpt")


def test_another_backbone_or_method_is_refused(tmp_path):
    model = small.model("vision", "text")
    with pytest.raises(CheckpointError, match=r"trained on another backbone.*init_from=null"):
        warm_start(model, saved(model, tmp_path / "a.safetensors", fingerprint="f" * 64))
    lora = small.model("vision", "text", peft=partial(LoRA, rank=4))
    with pytest.raises(CheckpointError, match="checkpoint is of another model"):
        warm_start(lora, saved(model, tmp_path / "b.safetensors"))
