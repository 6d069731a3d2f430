import json

from hydra_plugins.hmmoe_launcher import _screen
from hydra_plugins.hmmoe_launcher._record import Entry


def test_the_closing_table_has_scores_and_costs(tmp_path, capsys):
    (tmp_path / "0_peft-lora").mkdir()
    result = {
        "metrics": {"train": {"acc": 0.9}, "val": {"acc": 0.5}, "dev": {"acc": 0.61}, "test1": {"acc": 0.62}},
        "parameters": {"trained_percent": 7.891},
        "cost": {"flops_per_sample": 2.5e9, "step_ms": 123.4},
        "peak_memory_mib": 1050.2,
    }
    (tmp_path / "0_peft-lora" / "result.json").write_text(json.dumps(result))
    done = Entry(0, "0_peft-lora", ["peft=lora"], status="completed", score=0.5, seconds=61.0)
    lost = Entry(1, "1_peft-full", ["peft=full"], status="failed", seconds=3.0)
    _screen.closing(tmp_path, [done, lost], "val/acc")
    lines = capsys.readouterr().out.splitlines()
    for word in ("val/acc", "dev/acc", "test1/acc", "trained %", "GFLOP", "ms", "MiB"):
        assert any(word in line for line in lines[:5]), word
    assert "train/acc" not in "".join(lines)
    first = next(line for line in lines if "peft-lora" in line)
    assert all(cell in first for cell in ("0.5000", "0.6100", "0.6200", "7.89", "2.5", "123", "1050", "61 s"))
    assert "0.5" not in next(line for line in lines if "peft-full" in line)
