"""When routing has gone wrong: one kind of expert does nearly all the work, or an expert none."""

from collections.abc import Sequence

from hmmoe.analysis.usage_table import shares_by_kind
from hmmoe.routing.usage import Usage

ENOUGH = 50  # tokens below which an expert that was not chosen proves nothing
SHOWN = 8

ADVICE = (
    "peft.balance_weight (try 0.01) prices imbalance; compare peft.routing=uniform before trusting the router. "
    "callbacks.utilization.share_alarm and .dead_below move these limits"
)


def find_alarms(rows: Sequence[Usage], *, share_alarm: float = 0.8) -> list[str]:
    """One line per place: a kind above ``share_alarm`` of a stream's weight, then every row that counts as dead.

    A stream with one kind, and a group of one, have no choice and raise none.
    """
    alarms = []
    for (site, modality), shares in shares_by_kind(rows).items():
        kind = max(shares, key=shares.__getitem__)
        if len(shares) > 1 and shares[kind] > share_alarm:
            alarms.append(
                f"{site}, {modality}: kind {kind!r} takes {shares[kind]:.0%} of the weight (limit {share_alarm:.0%})"
            )
    for row in rows:
        if row.dead and row.tokens >= ENOUGH:
            what = f"group {row.group!r}" if row.expert is None else f"expert {row.expert} of {row.group!r}"
            alarms.append(f"{row.site}, {row.modality}: {what} is dead ({row.ratio:.2f} of its fair share)")
    return alarms


def warning(alarms: Sequence[str], epoch: int) -> str:
    """The alarms of an epoch, counted from 0 as Lightning does, as one message that counts from 1 as all others do."""
    more = [f"... and {len(alarms) - SHOWN} more"] if len(alarms) > SHOWN else []
    lines = "\n  ".join([*alarms[:SHOWN], *more])
    return f"Expert collapse in epoch {epoch + 1}:\n  {lines}\n{ADVICE}"
