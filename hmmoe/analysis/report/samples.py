"""Scores of single examples out of the predictions files."""

import csv
import json
from pathlib import Path


def sample_scores(path: Path) -> dict[str, float]:
    """Score of every example by id, higher is better; empty where the file holds no answer to judge by.

    The official score of the answer (``score``) where the task gives one; J of a segmentation; 1 / rank of a
    retrieval; the share of right entries where prediction and label are lists (seconds of AVE); else right (1) or
    wrong (0). An id that comes more than once counts as the mean.
    """
    if not path.is_file():
        return {}
    found: dict[str, list[float]] = {}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            score = _score(row)
            if score is not None:
                found.setdefault(row["id"], []).append(score)
    return {name: sum(scores) / len(scores) for name, scores in found.items()}


def _score(row: dict[str, str]) -> float | None:
    for name, of in (("score", float), ("J", float), ("rank", lambda text: 1 / float(text))):
        if row.get(name):
            return of(row[name])
    prediction, label = row.get("prediction"), row.get("label")
    if prediction is None or not label:
        return None
    if label.startswith("[") and prediction.startswith("["):
        said, true = json.loads(prediction), json.loads(label)
        return sum(a == b for a, b in zip(said, true, strict=True)) / len(true) if true else None
    return float(prediction == label)


def both(ours: dict[str, float], theirs: dict[str, float]) -> tuple[list[float], list[float]]:
    """Scores of the examples that both have, in one order.

    Raises:
        ValueError: they do not hold the same examples.
    """
    if ours.keys() != theirs.keys():
        raise ValueError(
            f"predictions of {len(ours)} and of {len(theirs)} examples, {len(ours.keys() & theirs.keys())} in common"
        )
    names = sorted(ours)
    return [ours[name] for name in names], [theirs[name] for name in names]
