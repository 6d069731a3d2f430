"""Decoded entries on disk: one file each, below a folder for every recipe, with checksums and their sources' state.

    <folder>/<digest of the recipe>/manifest.jsonl      the recipe; then a line for every finished entry
    <folder>/<digest of the recipe>/<xx>/<name>         the entry's tensors, safetensors

An entry's file is renamed into place before its line is appended, so a kill at any moment loses at most the entries in
work, and the next run goes on with the rest.
"""

import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from hmmoe.errors import DataBroken

FORMAT = 1
"""To be raised when the same recipe gives other tensors than before."""
MANIFEST = "manifest.jsonl"

State = list[list[int] | None]
"""Size and time of last change (ns) of every source file, None for one that is not there; folders count as 0 bytes."""


class Entry(NamedTuple):
    """A line of the manifest."""

    bytes: int
    sha256: str
    sources: State


def state_of(sources: Iterable[Path]) -> State:
    """What would change if a source did. Of a folder: its own time, which moves when files come, go or are replaced."""
    state: State = []
    for path in sources:
        try:
            found = path.stat()
        except (FileNotFoundError, NotADirectoryError):
            state.append(None)
        else:
            state.append([0 if path.is_dir() else found.st_size, found.st_mtime_ns])
    return state


class Shelf:
    """The entries of one recipe.

    Args:
        folder: of all recipes.
        recipe: everything that decides the tensors beside the source files, plain values.
    """

    def __init__(self, folder: Path, recipe: Mapping[str, Any]) -> None:
        self.recipe = json.loads(json.dumps({"format": FORMAT, **recipe}))
        digest = hashlib.sha256(json.dumps(self.recipe, sort_keys=True).encode()).hexdigest()
        self.all, self.folder = folder, folder / digest[:16]
        self._seen: set[str] = set()
        self._entries: dict[str, Entry] | None = None

    @property
    def entries(self) -> dict[str, Entry]:
        """What the manifest lists, read at first use; empty where there is none."""
        if self._entries is None:
            self._entries = dict(_read(self.folder / MANIFEST))
        return self._entries

    def reload(self) -> None:
        """Forget what was read: another split may have written since."""
        self._entries = None

    def path(self, key: str) -> Path:
        """The entry's file."""
        name = hashlib.sha256(key.encode()).hexdigest()[:32]
        return self.folder / name[:2] / f"{name}.safetensors"

    def get(self, key: str) -> tuple[Tensor, ...]:
        """The tensors; the file is checked when it is first read.

        Raises:
            DataBroken: no such entry, or its file is gone or has another checksum.
        """
        path, entry = self.path(key), self.entries.get(key)
        if entry is None:
            raise DataBroken(f"{self.folder} has no entry {key}: run the same `python -m datamodules.prepare` again")
        try:
            content = path.read_bytes()
        except FileNotFoundError as fault:
            raise DataBroken(f"{path} ({key}) is gone: {_again()}") from fault
        if key not in self._seen:
            if hashlib.sha256(content).hexdigest() != entry.sha256:
                raise DataBroken(f"{path} ({key}) has another checksum than in {MANIFEST}: {_again()}")
            self._seen.add(key)
        try:
            tensors = load(content)
        except SafetensorError as fault:
            raise DataBroken(f"{path} ({key}) cannot be read ({fault}): {_again()}") from fault
        return tuple(tensors[str(place)] for place in range(len(tensors)))

    def put(self, key: str, tensors: Sequence[Tensor], sources: State) -> Entry:
        """Write an entry's file, whole or not at all; ``note`` makes it known.

        Args:
            key: of the entry.
            tensors: in order.
            sources: state of its files, taken before they were read.
        """
        content = save({str(place): tensor.contiguous() for place, tensor in enumerate(tensors)})
        _replace(self.path(key), content)
        return Entry(len(content), hashlib.sha256(content).hexdigest(), sources)

    def open(self, keep: Mapping[str, Entry]) -> None:
        """Start, or start again, with a manifest of the recipe and these entries."""
        lines = [{"recipe": self.recipe}, *({"key": key, **entry._asdict()} for key, entry in keep.items())]
        _replace(self.folder / MANIFEST, "".join(json.dumps(line) + "\n" for line in lines).encode())
        self._entries = dict(keep)

    def note(self, key: str, entry: Entry) -> None:
        """Append a finished entry to the manifest."""
        with (self.folder / MANIFEST).open("a") as file:
            file.write(json.dumps({"key": key, **entry._asdict()}) + "\n")
        self.entries[key] = entry

    def whole(self, key: str) -> bool:
        """Whether an entry's file has the size and the checksum of the manifest."""
        entry, path = self.entries.get(key), self.path(key)
        if entry is None or not path.is_file() or path.stat().st_size != entry.bytes:
            return False
        return hashlib.sha256(path.read_bytes()).hexdigest() == entry.sha256

    def others(self) -> list[str]:
        """What was set otherwise, "key was A, is B", in the recipe below this folder that is most like this one."""
        found = [_differences(recipe, self.recipe) for recipe in map(_recipe, self.all.glob(f"*/{MANIFEST}")) if recipe]
        return min(found, key=len, default=[])


def _again() -> str:
    return "run the same `python -m datamodules.prepare` again with --check, which makes such entries anew"


def _replace(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_bytes(content)
    os.replace(fresh, path)


def _read(path: Path) -> Iterable[tuple[str, Entry]]:
    if not path.is_file():
        return
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines[1:], start=2):
        try:
            row = json.loads(line)
            yield row["key"], Entry(row["bytes"], row["sha256"], row["sources"])
        except (ValueError, KeyError, TypeError) as fault:
            if number < len(lines):  # the last line may be cut off by a kill
                raise DataBroken(f"{path}, line {number} is no entry ({fault!r}): delete {path.parent}") from fault


def _recipe(path: Path) -> dict[str, Any] | None:
    try:
        with path.open() as file:
            return json.loads(file.readline())["recipe"]
    except (ValueError, KeyError, OSError):
        return None


def _flat(value: Any, path: str = "") -> dict[str, Any]:
    if not isinstance(value, dict):
        return {path: value}
    return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{path}.{key}".lstrip(".")).items()}


def _differences(old: dict[str, Any], new: dict[str, Any]) -> list[str]:
    before, after = _flat(old), _flat(new)
    keys = [key for key in {**before, **after} if before.get(key) != after.get(key)]
    return [f"{key} was {before.get(key)}, is {after.get(key)}" for key in keys]
