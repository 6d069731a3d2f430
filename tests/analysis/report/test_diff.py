"""Two runs side by side."""

from hmmoe import diff
from hmmoe.analysis.report.difference import differences
from hmmoe.analysis.report.runs import Run
from tests.analysis.report.folders import make, manifest, write


def test_the_same_command_twice_is_the_same_but_for_its_folder(tmp_path, capsys):
    first, second = (make(tmp_path / name, score=score) for name, score in (("a", 0.7), ("b", 0.8)))
    assert differences(Run(first), Run(second)) == []
    assert diff.main([str(first), str(second)]) == 0
    shown = capsys.readouterr().out
    assert "same settings, code, data, versions and hardware" in shown and "0.7000" in shown and "0.8000" in shown


def test_every_part_shows_its_difference(tmp_path, capsys):
    first = make(tmp_path / "a")
    second = make(
        tmp_path / "b", seed=2, settings={"peft.rank": 16}, data=manifest(1), git={"sha": "b" * 40, "dirty": True}
    )
    record = Run(second).record
    record |= {"versions": {"torch": "2.14.0"}, "hardware": {"cpu": "other", "threads": 1, "gpus": []}}
    write(second, "run.json", record | {"fingerprint": "ffff"})
    found = {(one.part, one.name): (one.first, one.second) for one in differences(Run(first), Run(second))}
    assert found["config", "peft.rank"] == ("8", "16") and found["config", "seed"] == ("1", "2")
    assert found["versions", "torch"] == ("2.15.0", "2.14.0") and found["hardware", "cpu"] == ("AMD EPYC", "other")
    assert {part for part, _ in found} == {"config", "code", "data", "start", "versions", "hardware"}
    assert not any("run_dir" in name for _, name in found)
    assert diff.main([str(first), str(second)]) == 1
    shown = capsys.readouterr().out
    assert "peft.rank" in shown and "b" * 12 in shown and "b" * 13 not in shown
    assert "uncommitted changes were not recorded" in shown


def test_a_key_that_one_run_lacks_is_a_dash(tmp_path):
    first, second = make(tmp_path / "a", peft="linear_probe"), make(tmp_path / "b")
    assert ("config", "peft.rank", "-", "8") in differences(Run(first), Run(second))


def test_no_run_folder_is_a_message(tmp_path, capsys):
    assert diff.main([str(tmp_path), str(tmp_path)]) == 2
    assert "is no run folder: expected run.json" in capsys.readouterr().err


def test_columns_of_one_sweep_are_told_apart(tmp_path):
    sweep = tmp_path / "logs" / "a long name of a sweep"
    assert diff.apart(sweep / "0_rank-8", sweep / "1_rank-16") == ("0_rank-8", "1_rank-16")
    assert diff.apart(sweep, sweep / "1_rank-16") == (sweep.name, "1_rank-16")


def test_other_code_after_a_resume_is_a_difference(tmp_path):
    first, second = make(tmp_path / "a"), make(tmp_path / "b")
    record = Run(second).record
    write(second, "run.json", record | {"resumed": [{"git": {"sha": "c" * 40, "dirty": False, "diff": None}}]})
    assert ("code", "went on with other code", "-", "c" * 12) in differences(Run(first), Run(second))
