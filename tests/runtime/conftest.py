"""One unbroken run for every file of tests that compares with it."""

from pathlib import Path

import pytest

from hmmoe.runtime import restore
from tests.runs import run, tiny


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch):
    """What ``restore.prepare`` puts there is gone after each test."""
    for name in (restore.RUN_DIR, restore.HYDRA_DIR):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Overrides of the tiny run."""
    return tiny(tmp_path_factory.mktemp("data") / "NLVR")


@pytest.fixture(scope="module")
def whole(settings: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its folder."""
    folder = tmp_path_factory.mktemp("runs") / "whole"
    run(folder, *settings)
    return folder
