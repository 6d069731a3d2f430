"""What the repository must not hold: addresses of registries, paths of a machine, lock files, large files."""

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ADDRESS = re.compile(
    "|".join(("index[-]url", "find[-]links", r"https?://[^ \"]*/simpl[e]", r"\"resolve[d]\": *\"https?:"))
)
MACHINE = re.compile(r"(^|[^A-Za-z0-9_.])/(work|farm|home|root|Users)/")
LARGEST = 14 * 2**20
"""Of all weights: the towers of one modality are under 8 MB together, the rest is for the mini VLMo and VALOR."""


@pytest.fixture(scope="module")
def tracked() -> list[Path]:
    listed = subprocess.run(["git", "-C", str(ROOT), "ls-files", "-z"], capture_output=True, text=True)
    if listed.returncode:
        return [p for p in ROOT.rglob("*") if p.is_file() and not any(part.startswith(".") for part in p.parts)]
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


def test_no_registry_and_no_machine(tracked):
    for path in tracked:
        if path.name == Path(__file__).name or path.suffix in (".safetensors", ".png"):
            continue
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1):
            assert not ADDRESS.search(line) and not MACHINE.search(line), (
                f"{path.relative_to(ROOT)}:{number}: {line[:120]}"
            )


def test_no_lock_file_with_addresses(tracked):
    assert not {path.name for path in tracked} & {"uv.lock", "pylock.toml", "poetry.lock"}


def test_constraints_are_names_and_versions():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    assert len(lines) > 50 and all(re.match(r"^[a-z0-9][a-z0-9._-]*==[^ ]+( ; .*)?$", line) for line in lines)


def test_files_are_small(tracked):
    assert sum(path.stat().st_size for path in tracked if path.suffix == ".safetensors") <= LARGEST
    assert not [path for path in tracked if path.stat().st_size > 4 * 2**20]


def test_every_dependency_has_its_reason():
    """A comment stands on the line of each."""
    text = (ROOT / "pyproject.toml").read_text()
    block = text[text.index("dependencies = [") : text.index("[project.optional-dependencies]")]
    lines = [line for line in block.splitlines() if line.strip().startswith('"')]
    assert len(lines) > 10 and all("#" in line for line in lines)
