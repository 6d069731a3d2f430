"""Throughput of the loaders: raw and cached, in the table and in the numbers."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks.loaders import Rate, main, table
from tests.datamodules.conftest import ave_root  # noqa: F401 - a fixture


def test_the_table_puts_cached_beside_raw():
    rates = [Rate("ave", source, 1, 8, samples, 2.0) for source, samples in (("raw", 8), ("cached", 80))]
    text = table([*rates, Rate("msrvtt_qa", "raw", 2, 4, 4, 1.0)], ["scale=mini"])
    assert "| ave | 1 | 8 | 4.0 | 40.0 | 10.0 |" in text
    assert "| msrvtt_qa | 2 | 4 | 4.0 | - | - |" in text


def test_the_command_measures_both(tmp_path: Path, ave_root: Path, capsys: pytest.CaptureFixture[str]):  # noqa: F811
    root = tmp_path / "AVE_Dataset"
    shutil.copytree(ave_root, root)
    page, numbers = tmp_path / "page.md", tmp_path / "loaders.json"
    words = [f"data.root={root}", "data.batch_size=2", "backbone.inputs.vision.size=16"]
    given = ["--data", "ave", "--workers", "0", "--seconds", "0", "--json", str(numbers), "--markdown", str(page)]
    main([*given, "--set", *words])
    rows = json.loads(numbers.read_text())["rows"]
    assert [(row["source"], row["workers"], row["samples"]) for row in rows] == [("raw", 0, 2), ("cached", 0, 2)]
    assert "| ave | 0 | 2 |" in page.read_text() and "| ave | 0 | 2 |" in capsys.readouterr().out
    assert (root / "decoded").is_dir()
