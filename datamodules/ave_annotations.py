"""AVE's annotation rows: category, video and seconds of one event, as the published text files have them.

Source: Tian et al., "Audio-Visual Event Localization in Unconstrained Videos", ECCV 2018; YapengTian/AVE-ECCV18.
"""

from difflib import get_close_matches
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Int64
from torch import Tensor

from datamodules.lines import read_text
from hmmoe.errors import DataBroken

SECONDS = 10
CATEGORIES = (
    "Church bell",
    "Male speech, man speaking",
    "Bark",
    "Fixed-wing aircraft, airplane",
    "Race car, auto racing",
    "Female speech, woman speaking",
    "Helicopter",
    "Violin, fiddle",
    "Flute",
    "Ukulele",
    "Frying (food)",
    "Truck",
    "Shofar",
    "Motorcycle",
    "Acoustic guitar",
    "Train horn",
    "Clock",
    "Banjo",
    "Goat",
    "Baby cry, infant cry",
    "Bus",
    "Chainsaw",
    "Cat",
    "Horse",
    "Toilet flush",
    "Rodents, rats, mice",
    "Accordion",
    "Mandolin",
)
"""Names in class index order: that of first appearance in Annotations.txt."""
BACKGROUND = len(CATEGORIES)
FIELDS = ("Category", "VideoID", "Quality", "StartTime", "EndTime")


class Event(NamedTuple):
    """One row: the event is seen and heard in the seconds start <= t < end of a video, which may have several rows."""

    category: int
    video: str
    start: int
    end: int

    def labels(self) -> Int64[Tensor, "10"]:
        """Class of every second."""
        labels = torch.full((SECONDS,), BACKGROUND)
        labels[self.start : self.end] = self.category
        return labels


def read_events(path: Path) -> list[Event]:
    """Rows of Annotations.txt or of a split file, with the header line or without (both circulate).

    Raises:
        DataBroken: names the row, counted from 1 as in an editor.
    """
    rows = read_text(path).splitlines()
    first = 1 if rows and rows[0].split("&")[:2] == list(FIELDS[:2]) else 0
    events: dict[tuple[str, int], Event] = {}
    for number, row in enumerate(rows[first:], start=first + 1):
        if row.strip():
            event = _parse(row, path, number)
            if (event.video, event.category) in events:
                raise DataBroken(
                    f"{path}, row {number} is {row!r}: {event.video} has a row for {CATEGORIES[event.category]} "
                    "already; delete one of them or fetch the file again"
                )
            events[event.video, event.category] = event
    if not events:
        raise DataBroken(f"{path} holds no row: fetch the file again")
    return list(events.values())


def _parse(row: str, path: Path, number: int) -> Event:
    fields = row.strip().split("&")
    fault = f"{path}, row {number} is {row!r}: "
    if len(fields) != len(FIELDS):
        raise DataBroken(f"{fault}expected {'&'.join(FIELDS)}; mend the row or fetch the file again")
    category, video, _, *times = fields
    if category not in CATEGORIES:
        close = get_close_matches(category, CATEGORIES, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"expected one of {', '.join(CATEGORIES)}"
        raise DataBroken(f"{fault}{category!r} is no category of AVE; {hint}")
    start, end = (int(time) if time.strip().isdecimal() else -1 for time in times)
    if not video or not 0 <= start <= end <= SECONDS:
        raise DataBroken(
            f"{fault}expected a video and whole seconds with 0 <= StartTime <= EndTime <= {SECONDS}; mend the row"
        )
    return Event(CATEGORIES.index(category), video, start, end)
