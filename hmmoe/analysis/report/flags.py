"""What the curves of a run warn of, from the files that it left."""

from hmmoe.analysis.report.runs import Run

MEANING = {
    "collapse": "routing alarms stood in the last epoch: dead experts, or one kind with most of the weight",
    "at chance": "the selected score does not pass the reference line of its split (majority or chance)",
    "nothing learnt": "the training loss fell by less than 2 % from its first epoch to its best",
    "plateau": "no better score on the selection split in the last half of the epochs",
    "still rising": "the last epoch was the best: more epochs may give more",
    "past its best": "the kept epoch is not the last, and the last is worse by more than 10 % of the way gained",
}

GUESSES = ("majority", "background", "chance", "prior")
"""Reference lines that need no look at the example; others are ceilings, or readers of the question."""


def flags(run: Run) -> list[str]:
    """Names out of ``MEANING``, the grave ones first."""
    found = []
    if alarms(run):
        found.append("collapse")
    if _at_chance(run):
        found.append("at chance")
    loss = list(run.curve("train/loss").values())
    if len(loss) > 1 and min(loss) > 0.98 * loss[0]:
        found.append("nothing learnt")
    return found + _shape(run)


def alarms(run: Run) -> int:
    """Routing alarms at the end of the last epoch that counted them."""
    told = run.curve("experts/alarms")
    return int(told[max(told)]) if told else 0


def _at_chance(run: Run) -> bool:
    selected = run.result.get("selected", {})
    split, _, metric = selected.get("monitor", "").partition("/")
    lines = run.result.get("references", {}).get(split, {})
    names = {f"{guess}_{part}" for guess in GUESSES for part in (metric, metric.partition("_")[0])}
    floor = [value for name, value in lines.items() if name in names or (metric == "acc" and name in GUESSES)]
    score = selected.get("score")
    return bool(floor) and score is not None and score <= max(floor)


def _shape(run: Run) -> list[str]:
    """The course of the monitored score over the epochs of training."""
    selected = run.result.get("selected", {})
    trained = run.curve("train/loss")
    curve = {epoch: score for epoch, score in run.curve(selected.get("monitor", "")).items() if epoch in trained}
    if len(curve) < 4:
        return []
    sign = 1 if selected.get("mode") == "max" else -1
    scores = [sign * score for _, score in sorted(curve.items())]
    best = scores.index(max(scores))
    found = []
    if best == len(scores) - 1:
        found.append("still rising")
    elif best < len(scores) // 2:
        found.append("plateau")
    if scores[best] - scores[-1] > 0.1 * (scores[best] - scores[0]) > 0:
        found.append("past its best")
    return found
