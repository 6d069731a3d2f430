"""Shapes in signatures are checked while tests run; nothing reaches the network; one thread, seeded."""

import os

os.environ |= {"HF_HUB_OFFLINE": "1", "WANDB_MODE": "offline", "HYDRA_FULL_ERROR": "1"}

import jaxtyping
from jaxtyping import install_import_hook

install_import_hook("hmmoe", "beartype.beartype")

import pytest  # noqa: E402 - after the hook, which must see every import of hmmoe
import torch  # noqa: E402
from hydra.core.config_store import ConfigStore  # noqa: E402

torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Every test starts from the same random state."""
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def choices():
    """A checkpoint whose settings a test registered is no choice of the tests after it."""
    yield
    repo = ConfigStore.instance().repo
    for group in (repo, *(node for node in repo.values() if isinstance(node, dict))):
        group.pop("checkpoint.yaml", None)


@pytest.fixture
def unchecked():
    """Signatures unchecked, as in a user's run: wrong values reach the constructors' own checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
