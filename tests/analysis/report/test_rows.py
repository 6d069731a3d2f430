"""Which runs share a row, what the row is called, and what may not stand in one table."""

from pathlib import Path

import pytest

from hmmoe.analysis.report import provenance
from hmmoe.analysis.report.assemble import reports
from hmmoe.analysis.report.comparison import compare, find_baseline, matched
from hmmoe.analysis.report.flags import flags
from hmmoe.analysis.report.rows import latest, rows
from hmmoe.analysis.report.runs import Run, find
from hmmoe.analysis.report.samples import both, sample_scores
from hmmoe.errors import ConfigError, DataBroken, DataMissing
from tests.analysis.report.folders import make, manifest, sweep, write


@pytest.fixture(scope="module")
def swept(tmp_path_factory) -> list[Run]:
    runs = find([sweep(tmp_path_factory.mktemp("sweep"), examples=40)])
    return [run for run in runs if run.status == "completed"]


def test_a_sweep_falls_into_methods_and_ranks(swept):
    table = rows(swept)
    assert [row.label for row in table] == [f"{m}, rank {r}" for m in ("hmmoe", "lora") for r in (8, 16, 32)]
    assert all(sorted(run.seed for run in row.runs) == [1, 2, 3] for row in table)
    assert list(table[0].values) == ["peft", "peft.rank"]


def test_rows_by_choice_pool_the_rest(swept):
    table = rows(swept, ["peft"])
    assert [(row.label, len(row.runs)) for row in table] == [("hmmoe", 9), ("lora", 9)]
    assert [row.label for row in rows(swept, ["rank"])] == ["rank 8", "rank 16", "rank 32"]
    with pytest.raises(ConfigError, match=r"must name one setting.*no such setting"):
        rows(swept, ["nonsense"])


def test_pooled_rows_pair_equal_settings(swept):
    ours, theirs = rows(swept, ["peft"])
    pairs = matched(ours, theirs)
    assert len(pairs) == 9
    assert all((a.seed, a.settings["peft.rank"]) == (b.seed, b.settings["peft.rank"]) for a, b in pairs)


def test_alike_runs_are_one_row_named_by_the_method(tmp_path):
    for seed in (1, 2):
        make(tmp_path / str(seed), seed=seed)
    (row,) = rows(find([tmp_path]))
    assert row.label == "hmmoe" and len(row.runs) == 2


def test_a_setting_that_nobody_typed_still_tells_rows_apart(tmp_path):
    """Defaults that changed between two versions: equal commands, unequal settings."""
    for index, k in enumerate((1, 2)):
        folder = make(tmp_path / str(k), settings={"peft.k": k})
        record = Run(folder).record
        write(folder, "run.json", record | {"overrides": ["experiment=nlvr_hmmoe"], "time": str(index)})
    assert [row.label for row in rows(find([tmp_path]))] == ["k 1", "k 2"]


def test_the_same_seed_twice_is_no_second_sample(tmp_path):
    for name in ("a", "b"):
        folder = make(tmp_path / name, seed=1)
        write(folder, "run.json", Run(folder).record | {"time": f"2026-01-0{1 + (name == 'b')}"})
    kept, old = latest(find([tmp_path]))
    assert [run.folder.name for run in kept] == ["b"] and [run.folder.name for run in old] == ["a"]


def test_folders_without_runs_and_broken_files_are_named(tmp_path):
    with pytest.raises(DataMissing, match="no run below"):
        find([tmp_path])
    with pytest.raises(DataMissing, match=r"no folder .*nowhere"):
        find([tmp_path / "nowhere"])
    (make(tmp_path / "a") / "result.json").write_text("{")
    with pytest.raises(DataBroken, match=r"result.json is not JSON"):
        find([tmp_path])


def test_what_a_sweep_has_put_aside_is_no_run_and_what_it_has_not_begun_is_said(tmp_path):
    make(tmp_path / "sweep" / "0_rank-8")
    make(tmp_path / "sweep" / ".attempts" / "0_rank-8_1", status={"status": "failed", "reason": "killed"})
    make(tmp_path / "sweep" / "0_rank-8" / "wandb" / "offline-run-1" / "files")  # W&B's copies of the records
    (tmp_path / "sweep" / "1_rank-16").mkdir()  # its process was killed before it wrote a line
    jobs = [{"folder": name} for name in ("0_rank-8", "1_rank-16", "2_rank-32")]
    jobs.append({"folder": "3_rank-999", "status": "dropped"})
    write(tmp_path / "sweep", "sweep.json", {"jobs": jobs})
    (one,), missing = reports([tmp_path])
    assert [run.folder.name for run in one.runs] == ["0_rank-8"]
    assert len(missing) == 1 and missing[0].startswith("not begun  2 of 3 jobs of ")
    assert missing[0].endswith(f"sweep.resume={tmp_path / 'sweep'}")
    assert reports([tmp_path / "sweep" / "0_rank-8"])[1] == []


def test_a_heading_is_no_reason_without_its_first_fault(tmp_path):
    reason = "one fault in the configuration:\n  peft.rank=0: must be 1 or more\n  more"
    run = Run(make(tmp_path / "a", status={"status": "failed", "reason": reason}))
    assert run.reason == "one fault in the configuration: peft.rank=0: must be 1 or more"


def test_switches_and_numbers_need_their_key(tmp_path):
    for seed, value in enumerate((True, False)):
        make(tmp_path / str(seed), seed=seed, settings={"checkpointing": value})
    assert [row.label for row in rows(find([tmp_path]))] == ["checkpointing False", "checkpointing True"]


@pytest.mark.parametrize(
    ("other", "words"),
    [
        ({"git": {"sha": "b" * 40, "dirty": False}}, "the code differs: .*--mix code"),
        ({"git": {"sha": "93cfc01ae2087c8f4c330c5ce5913d7cec139a24", "dirty": True, "diff": "c" * 64}}, "the code"),
        ({"data": manifest(seed=1)}, "the data of split train differ.*--mix data"),
    ],
    ids=["another commit", "uncommitted changes", "other data"],
)
def test_unequal_runs_are_refused_unless_allowed(tmp_path, other, words):
    make(tmp_path / "a", seed=1)
    make(tmp_path / "b", seed=2, **other)
    table = rows(find([tmp_path]))
    with pytest.raises(ConfigError, match=f"(?s){words}"):
        provenance.check(table, ["test"])
    notes = provenance.check(table, ["test"], allow=["code", "data"])
    assert notes[0].startswith("MIXED: ")


def test_a_swept_data_setting_may_change_the_training_set_and_nothing_else(tmp_path):
    small = manifest()
    small["splits"]["train"] = {"count": 40, "dropped": 0, "sha256": "f" * 64}
    make(tmp_path / "a", settings={"data.fraction": 1.0})
    make(tmp_path / "b", settings={"data.fraction": 0.1}, data=small)
    assert provenance.check(rows(find([tmp_path])), ["test"]) == []
    small["splits"]["test"] = {"count": 9, "dropped": 0, "sha256": "f" * 64}
    make(tmp_path / "c", settings={"data.fraction": 0.2}, data=small)
    with pytest.raises(ConfigError, match="split test"):
        provenance.check(rows(find([tmp_path])), ["test"])


def test_holes_and_dirty_trees_are_said(tmp_path):
    holed = manifest()
    holed["splits"]["test"]["dropped"] = 7
    make(tmp_path / "a", data=holed, git={"sha": "a" * 40, "dirty": True})
    notes = "\n".join(provenance.check(rows(find([tmp_path])), ["test"]))
    assert "7 examples of test dropped" in notes and "which ones was not recorded" in notes


def test_a_tree_with_changed_documents_only_is_the_commit(tmp_path):
    make(tmp_path / "a", seed=1, git={"sha": "a" * 40, "dirty": True, "diff": None})
    make(tmp_path / "b", seed=2, git={"sha": "a" * 40, "dirty": False, "diff": None})
    assert provenance.check(rows(find([tmp_path])), ["test"]) == []


def test_a_run_that_went_on_with_other_code_is_mixed(tmp_path):
    make(tmp_path / "a", seed=1)
    folder = make(tmp_path / "b", seed=2)
    record = Run(folder).record
    write(folder, "run.json", record | {"resumed": [{"git": record["git"]}]})
    assert provenance.check(rows(find([tmp_path])), ["test"]) == []
    write(folder, "run.json", record | {"resumed": [{"git": record["git"] | {"dirty": True, "diff": "c" * 64}}]})
    table = rows(find([tmp_path]))
    with pytest.raises(ConfigError, match=r"93cfc01ae208, then 93cfc01ae208\+cccccc"):
        provenance.check(table, ["test"])
    notes = provenance.check(table, ["test"], allow=["code"])
    assert "1 of 2 runs had uncommitted changes in the code (not the same)" in notes


def test_every_row_meets_its_own_baseline(swept):
    found, alone = compare(rows(swept), "lora", "test/acc")
    assert {name: one.baseline for name, one in found.items()} == {
        f"hmmoe, rank {rank}": f"lora, rank {rank}" for rank in (8, 16, 32)
    }
    one = found["hmmoe, rank 8"]
    assert one.seeds.n == 3 and 0.01 < one.seeds.mean < 0.03 and not alone
    assert one.p_seeds >= one.seeds.p_t and one.examples.n == 40 and set(one.mcnemar) == {1, 2, 3}


def test_baselines_that_fit_nothing_or_too_much_are_refused(swept):
    table = rows(swept)
    with pytest.raises(ConfigError, match=r"names no row: found peft=hmmoe, peft.rank=8"):
        find_baseline(table, "adapter")
    assert [row.label for row in find_baseline(table, "peft=lora,rank=16")] == ["lora, rank 16"]
    assert len(find_baseline(table, "rank=16")) == 2


def test_a_row_without_a_counterpart_is_said_and_the_others_are_compared(tmp_path):
    for seed in (1, 2):
        for rank in (8, 16):
            make(tmp_path / f"lora{rank}_{seed}", peft="lora", settings={"peft.rank": rank}, seed=seed)
        make(tmp_path / f"hmmoe8_{seed}", settings={"peft.rank": 8}, seed=seed, score=0.7 + 0.01 * seed)
        make(tmp_path / f"probe{seed}", peft="linear_probe", seed=seed)
    table = rows(find([tmp_path]))
    found, (note,) = compare(table, "lora", "test/acc")
    assert list(found) == ["hmmoe, rank 8"]
    assert note == "linear_probe is as close to lora, rank 8 as to lora, rank 16: not compared"
    only = [row for row in table if row.label != "hmmoe, rank 8"]
    with pytest.raises(ConfigError, match=r"Name one, such as --baseline peft=lora,peft.rank=8"):
        compare(only, "lora", "test/acc")


def test_no_seed_in_common_is_said(tmp_path):
    make(tmp_path / "a", seed=1, peft="lora")
    make(tmp_path / "b", seed=2)
    found, (note,) = compare(rows(find([tmp_path])), "lora", "test/acc")
    assert not found and "no seed in common with lora (2 and 1)" in note


def test_scores_of_examples(tmp_path):
    def read(text: str) -> dict[str, float]:
        (tmp_path / "p.csv").write_text(text)
        return sample_scores(tmp_path / "p.csv")

    assert read("id,prediction,label\na,1,1\nb,0,1\n") == {"a": 1.0, "b": 0.0}
    assert read('id,prediction,label\na,"[1, 2, 3, 4]","[1, 2, 0, 4]"\n') == {"a": 0.75}
    assert read("id,prediction,label,score\na,3,4,0.6\n") == {"a": 0.6}
    assert read("id,prediction,J\na,x,0.4\n") == {"a": 0.4}
    assert read("id,prediction,label,rank,rank_of_clip\na,x,y,4,2\n") == {"a": 0.25}
    assert read("id,prediction\na,1\n") == {} and sample_scores(Path("nowhere.csv")) == {}
    with pytest.raises(ValueError, match="2 and of 1 examples, 1 in common"):
        both({"a": 1.0, "b": 0.0}, {"a": 1.0})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"curve": [0.6, 0.65, 0.69, 0.7]}, ["still rising"]),
        ({"curve": [0.6, 0.7, 0.70, 0.7, 0.69, 0.7]}, ["plateau"]),
        ({"curve": [0.6, 0.7, 0.75, 0.65]}, ["past its best"]),
        ({"curve": [0.6, 0.65, 0.70, 0.699], "alarms": 3}, ["collapse"]),
        ({"curve": [0.55, 0.55, 0.56, 0.555], "score": 0.52}, ["at chance", "nothing learnt", "past its best"]),
    ],
)
def test_flags(tmp_path, options, expected):
    assert flags(Run(make(tmp_path / "a", **options))) == expected
