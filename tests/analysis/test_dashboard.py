"""The dashboard as code: it builds without an account, and shows only what runs log."""

import json

import pytest

from hmmoe import dashboard
from hmmoe.analysis.usage_summary import summary
from hmmoe.callbacks.wandb_run import closing
from tests.callbacks.test_wandb_run import RESULT, routed

# wandb-workspaces is written in the older style of pydantic.
pytestmark = pytest.mark.filterwarnings("ignore:Pydantic V1 style")


def leaves(node):
    """All strings below a node."""
    if isinstance(node, dict):
        return [text for value in node.values() for text in leaves(value)]
    if isinstance(node, list):
        return [text for value in node for text in leaves(value)]
    return [node] if isinstance(node, str) else []


@pytest.fixture
def spec(tmp_path, capsys):
    path = tmp_path / "board.json"
    assert dashboard.main(["--entity", "me", "--project", "p", "--modalities", "vision", "--json", str(path)]) == 0
    assert "5 sections" in capsys.readouterr().out
    return json.loads(path.read_text())


def test_every_section_has_panels(spec):
    sections = spec["spec"]["section"]["panelBankConfig"]["sections"]
    names = [section["name"] for section in sections if section["panels"]]
    assert names[:5] == ["Scores", "Methods", "Rank x experts", "Expert utilisation", "Collapse"]


def test_it_shows_only_what_runs_log(spec):
    pictures = {"experts/heatmap_train", "experts/kinds_by_depth_train"}
    logged = summary(routed()).keys() | {f"result/{name}" for name in closing(RESULT)} | {"experts/alarms"} | pictures
    shown = {
        text.removeprefix("summary:").removeprefix("summary_metrics.")
        for text in leaves(spec)
        if "experts/" in text or "result/" in text
    }
    assert len(shown) > 10 and shown <= logged, sorted(shown - logged)


def test_without_an_account_it_says_what_to_do(monkeypatch, capsys):
    def refuse(self):
        raise ValueError("api_key not configured")

    monkeypatch.setattr("wandb_workspaces.workspaces.Workspace.save", refuse)
    assert dashboard.main(["--entity", "me"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "wandb login" in said and "--json" in said
