"""Annotation files in plain text."""

from pathlib import Path

from hmmoe.errors import DataBroken


def read_text(path: Path) -> str:
    """A file's text, with or without a byte order mark.

    Raises:
        DataBroken: not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as fault:
        raise DataBroken(f"{path} is no text in UTF-8 ({fault}): fetch the file again") from fault
