"""From the command line to the job: compose, call, and turn every expected error into a short message.

Exit codes: 0 done, 1 failed (a traceback, or the jobs of a sweep that have no result), 2 something to set right (a
message), 128 + n stopped by signal n.
"""

import logging
import os
import re
import secrets
import signal
import sys
from collections.abc import Callable
from datetime import datetime
from difflib import get_close_matches
from functools import wraps
from types import FrameType
from typing import Any

import hydra
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from hmmoe.errors import JobsFailed, UserError
from hmmoe.runtime import restore, schema, sweep
from hmmoe.runtime.signatures import signature

Job = Callable[[DictConfig], float | None]

CLOSE = 0.55
"""Likeness from which a known name is offered in place of an unknown one."""


class Interrupted(SystemExit):
    """Stopped by a signal; carries the exit code that says so."""

    def __init__(self, signum: int) -> None:
        self.signal = signal.Signals(signum).name
        super().__init__(128 + signum)


def start(job: Job, *, needs_checkpoint: bool = False) -> None:
    """Compose the configuration for ``job``, run it, exit.

    Args:
        job: takes the composed configuration; its module's directory holds ``conf/``.
        needs_checkpoint: ``ckpt_path`` must be given (eval.py).
    """
    # Hydra would print errors its own way and hide their type from us.
    os.environ["HYDRA_FULL_ERROR"] = "1"
    for signum in (signal.SIGTERM, signal.SIGINT):
        signal.signal(signum, _interrupt)
    schema.register()
    OmegaConf.register_new_resolver("run_stamp", run_stamp, use_cache=True, replace=True)
    OmegaConf.register_new_resolver("sweep_stamp", lambda choice: sweep.stamp(run_stamp(), choice), use_cache=True)
    try:
        sys.argv[:] = sweep.expand(sys.argv)
        config_name = restore.prepare(sys.argv, evaluate=needs_checkpoint) or "train"
        faults: list[Exception] = []
        hydra.main(version_base="1.3", config_path="conf", config_name=config_name)(_guarded(job, faults))()
        if faults:
            raise faults[0]
    except (UserError, HydraException, OmegaConfBaseException) as error:
        logging.shutdown()
        print(f"error: {explain(error)}", file=sys.stderr)
        sys.exit(2)
    except JobsFailed as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)


def _guarded(job: Job, faults: list[Exception]) -> Job:
    """The job, its expected errors set aside: Hydra would print its own line, and end a sweep at the first."""

    @wraps(job)
    def guarded(cfg: DictConfig) -> float | None:
        try:
            return job(cfg)
        except (UserError, OmegaConfBaseException) as error:
            faults.append(error)
            return None

    return guarded


def _interrupt(signum: int, frame: FrameType | None) -> None:
    signal.signal(signum, signal.SIG_IGN)  # a second Ctrl-C must not stop the tidying up
    raise Interrupted(signum)


def run_stamp() -> str:
    """<date>_<time>_<id>: sorts by time, and two runs of one second stay apart.

    Processes that torchrun or srun has started must agree without talking: they take what these gave all of them, and
    a requeued job finds its folder again.
    """
    given = os.environ
    if "TORCHELASTIC_RUN_ID" in given:
        name = given["TORCHELASTIC_RUN_ID"]
        return f"{datetime.now():%Y-%m-%d}_torchrun_{os.getppid() if name == 'none' else name}"
    if int(given.get("SLURM_NTASKS", 1)) > 1 and "SLURM_PROCID" in given:
        return f"slurm_{given['SLURM_JOB_ID']}_{given.get('SLURM_STEP_ID', 0)}"
    return f"{datetime.now():%Y-%m-%d_%H-%M-%S}_{secrets.token_hex(2)}"


def explain(error: Exception) -> str:
    """What is wrong, in a line or two, with what was probably meant."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MissingConfigException):
        return _missing(error)
    culprit = _culprit(error)
    if culprit is None:
        return _shorten(str(error))
    key = str(culprit.full_key or culprit.key)
    parent, _, name = key.rpartition(".")
    siblings = dict(culprit.parent_node.items_ex(resolve=False)) if isinstance(culprit.parent_node, DictConfig) else {}
    if name in siblings:
        return f"{key}: {_shorten(str(culprit))}{_place(error)}"
    takes = signature(str(siblings.get("_target_", "")))
    if takes is not None and name in takes.parameters:
        return f"{key} is not in the configuration yet: add it by +{key}=..."
    meant = _meant(name, [str(sibling) for sibling in siblings], parent)
    if parent and meant.startswith("Known"):
        meant += f" To add it all the same: +{key}=..."
    return f"there is no setting {key!r}{_place(error)}. {meant}"


def _culprit(error: BaseException | None) -> OmegaConfBaseException | None:
    """The OmegaConf error at the root of a chain, if it knows its node."""
    while error is not None:
        if isinstance(error, OmegaConfBaseException) and getattr(error, "parent_node", None) is not None:
            return error
        error = error.__cause__ or error.__context__
    return None


def _missing(error: MissingConfigException) -> str:
    group, _, name = str(error.missing_cfg_file or "").rpartition("/")
    if not error.options:
        return _shorten(str(error))
    place = f"{group}={name}" if group else name
    return f"there is no {place}. {_meant(name, list(error.options), '', group)}"


def _meant(name: str, known: list[str], parent: str, group: str = "") -> str:
    close = get_close_matches(name, known, n=1, cutoff=CLOSE)
    if close:
        full = f"{group}={close[0]}" if group else f"{parent}.{close[0]}".lstrip(".")
        return f"Did you mean {full}?"
    return f"Known: {', '.join(sorted(known)) or 'none'}."


def _place(error: Exception) -> str:
    """The YAML file that a composition error names."""
    found = re.match(r"In '([^']+)'", str(error))
    return f" (in conf/{found.group(1)}.yaml)" if found and isinstance(error, ConfigCompositionException) else ""


def _shorten(text: str) -> str:
    """Without search paths and OmegaConf's footers."""
    lines = [line.strip() for line in text.splitlines()]
    kept: list[Any] = []
    for line in lines:
        if line.startswith(("Config search path", "full_key:", "object_type=", "reference_type=", "set env var")):
            break
        kept.append(line)
    return " ".join(line for line in kept if line)
