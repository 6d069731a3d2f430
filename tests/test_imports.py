"""Imports go down only: the rooms know what DESIGN part 4 lets them know, and nothing runs in circles."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HOUSE = ("hmmoe", "tasks", "datamodules", "conf")
FILES = sorted(
    p
    for top in (*HOUSE, "train.py", "eval.py")
    for p in ([ROOT / top] if top.endswith("py") else (ROOT / top).rglob("*.py"))
)

FORBIDDEN = {
    "hmmoe": ("tasks", "datamodules", "train", "eval"),
    "tasks": ("datamodules", "hmmoe.runtime", "hmmoe.callbacks"),
    "datamodules": ("tasks", "hmmoe.runtime", "hmmoe.callbacks", "hmmoe.model", "hmmoe.peft", "hmmoe.backbones"),
    "hmmoe.peft": ("hmmoe.backbones",),
    "hmmoe.backbones": ("hmmoe.peft",),
    "hmmoe.experts": ("hmmoe.routing",),
    "hmmoe.types": ("hmmoe",),
    "hmmoe.model": ("hmmoe.callbacks", "hmmoe.runtime", "hmmoe.analysis"),
    "hmmoe.callbacks": ("hmmoe.runtime",),
    "hmmoe.analysis": ("hmmoe.runtime", "hmmoe.callbacks"),
}
ENTRIES = ("datamodules.prepare", "datamodules.verify", "hmmoe.analysis.profile.__main__")
"""Commands of other rooms: they take their settings from the runtime, and nothing imports them but one another."""
ONLY_IN = {
    "hydra": ("train", "eval", "hmmoe.runtime", "hydra_plugins"),
    "omegaconf": ("train", "eval", "hmmoe.runtime", "hydra_plugins"),
    "wandb": ("hmmoe.callbacks", "hmmoe.analysis"),
    "matplotlib": ("hmmoe.callbacks", "hmmoe.analysis"),
}


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> set[str]:
    """Dotted names of all imported modules; ``from a import b`` counts as a and as a.b."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def inside(name: str, room: str) -> bool:
    return name == room or name.startswith(f"{room}.")


@pytest.mark.parametrize("room", FORBIDDEN)
def test_rooms_that_must_not_know_each_other(room):
    arrows = [
        f"{name_of(path)} -> {name}"
        for path in FILES
        if inside(name_of(path), room)
        for name in imports(path)
        if any(inside(name, other) for other in FORBIDDEN[room])
        and not (name_of(path) in ENTRIES and inside(name, "hmmoe.runtime"))
    ]
    assert not arrows


def test_commands_of_other_rooms_stay_at_the_top():
    arrows = [
        f"{name_of(path)} -> {name}"
        for path in FILES
        if name_of(path) not in ENTRIES
        for name in imports(path)
        if any(inside(name, entry) for entry in ENTRIES)
    ]
    assert not arrows


@pytest.mark.parametrize("package", ONLY_IN)
def test_packages_that_stay_in_their_rooms(package):
    arrows = [
        f"{name_of(path)} -> {name}"
        for path in FILES
        if not any(inside(name_of(path), room) for room in ONLY_IN[package])
        for name in imports(path)
        if inside(name, package)
    ]
    assert not arrows


def test_no_circles():
    modules = {name_of(path): path for path in FILES}
    graph = {name: {other for other in imports(path) if other in modules} for name, path in modules.items()}
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, f"circle: {' -> '.join((*trail, name))}"
        if name not in done:
            for other in graph[name]:
                visit(other, (*trail, name))
            done.add(name)

    for name in graph:
        visit(name, ())


def test_entry_points_stay_light():
    """Heavy imports stand inside the job, so that a typo is answered in a second."""
    for entry in ("train.py", "eval.py"):
        top = [
            node for node in ast.parse((ROOT / entry).read_text()).body if isinstance(node, ast.ImportFrom | ast.Import)
        ]
        names = {node.module if isinstance(node, ast.ImportFrom) else node.names[0].name for node in top}
        assert names == {"omegaconf", "hmmoe.runtime.command"}
