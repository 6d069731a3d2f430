"""A utilisation table in a few numbers."""

from collections import defaultdict
from collections.abc import Sequence

from hmmoe.analysis.usage_table import shares_by_kind
from hmmoe.routing.usage import Usage


def summary(rows: Sequence[Usage], *, detail: str = "summary") -> dict[str, float]:
    """Metrics of a table under names that do not change from epoch to epoch."""
    groups: dict[str, list[float]] = defaultdict(list)
    experts: dict[str, list[float]] = defaultdict(list)
    dead: dict[tuple[str, str], int] = defaultdict(int)
    entropy: dict[tuple[str, str], float] = {}
    for row in rows:
        place = (row.site, row.modality)
        dead[place] += row.dead
        if row.level == "expert":
            experts[row.modality].append(row.entropy)
        elif place not in entropy:
            entropy[place] = row.entropy
            groups[row.modality].append(row.entropy)
    shares = shares_by_kind(rows)
    values: dict[str, float] = {}
    for modality, entropies in groups.items():
        mine = {site: kinds for (site, m), kinds in shares.items() if m == modality}
        head = f"experts/{modality}"
        values[f"{head}/entropy"] = sum(entropies) / len(entropies)
        values[f"{head}/entropy_min"] = min(entropies)
        values[f"{head}/expert_entropy"] = sum(experts[modality]) / len(experts[modality])
        values[f"{head}/max_share"] = max(max(kinds.values()) for kinds in mine.values())
        values[f"{head}/dead"] = float(sum(count for (_, m), count in dead.items() if m == modality))
        for kind in dict.fromkeys(kind for kinds in mine.values() for kind in kinds):
            values[f"{head}/share_{kind}"] = sum(kinds.get(kind, 0.0) for kinds in mine.values()) / len(mine)
    if detail == "full":
        for (site, modality), kinds in shares.items():
            head = f"experts/{site}/{modality}"
            values[f"{head}/entropy"] = entropy[site, modality]
            values[f"{head}/max_share"] = max(kinds.values())
            values[f"{head}/dead"] = float(dead[site, modality])
    return values
