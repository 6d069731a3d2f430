"""Files that travel with the package, named so that a saved config works on another machine."""

from pathlib import Path

MINI = "mini:"


def locate(name: str) -> str:
    """A path as it is, or "mini:<file>" as the path of a mini tower's file inside the installed package."""
    if not name.startswith(MINI):
        return name
    return str(Path(__file__).parent / "backbones" / "mini" / name.removeprefix(MINI))
