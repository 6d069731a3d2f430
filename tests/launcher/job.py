"""A stand-in for train.py that starts in no time: it writes what a run writes, and does what it is told.

``what=``good | fail | typo | die | stop | hang | deaf | meet | orphan | lazy; ``peft.rank=`` is the score. With ``-m``
it is train.py itself, else it imports nothing heavy.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path


def main(words: list[str]) -> None:
    given = dict(word.lstrip("+").split("=", 1) for word in words)
    folder = Path(os.environ["HMMOE_RUN_DIR"])
    kept = {name: os.environ.get(name) for name in ("CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS", "LOCAL_RANK")}
    with (folder / "starts.jsonl").open("a") as file:
        file.write(json.dumps({"words": words, "env": kept, "pid": os.getpid()}) + "\n")
    status = folder / "status.json"
    what = given.get("what", "good")
    if what == "typo":
        sys.exit("error: one fault in the configuration:\n  peft.rnak: did you mean rank?\n  and more")
    resumed = "ckpt_path" in given and status.is_file()
    status.write_text(json.dumps({"status": "running", "pid": os.getpid()}))

    def stop(number: int, frame: object) -> None:
        status.write_text(json.dumps({"status": "interrupted", "reason": signal.Signals(number).name}))
        sys.exit(128 + number)

    signal.signal(signal.SIGTERM, stop)
    if what == "fail" and not Path(given.get("mended", "")).is_file():
        status.write_text(json.dumps({"status": "failed", "reason": "ValueError: rank is no number\nand more"}))
        sys.exit(1)
    if what == "die" and not resumed:
        print("torch.OutOfMemoryError: CUDA out of memory", file=sys.stderr, flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "stop" and not resumed:
        os.kill(os.getpid(), signal.SIGTERM)
    if what == "meet":
        while len(list(folder.parent.glob("[0-9]*/starts.jsonl"))) < 2:
            time.sleep(0.01)
    if what == "hang" and not resumed:
        time.sleep(60)
    if what == "deaf":
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        time.sleep(60)
    if what == "orphan":
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
        (folder / "child").write_text(str(child.pid))
    if what == "lazy":
        sys.exit(0)
    (folder / "result.json").write_text(json.dumps({"selected": {"score": float(given["peft.rank"]) / 100}}))
    status.write_text(json.dumps({"status": "completed"}))


if __name__ == "__main__":
    if "-m" in sys.argv:
        sys.path.insert(0, str(Path(__file__).parents[2]))
        import train

        train.main()
    else:
        main(sys.argv[1:])
