"""Names of job folders: a number and what distinguishes the job, safe to type into any command."""

import re
from collections.abc import Sequence

LONGEST = 90


def names(jobs: Sequence[Sequence[str]], words: Sequence[str]) -> list[str]:
    """One name per job: ``rank-8_seed-1`` where these two are what the sweep varies.

    A comma or an equals sign in a path would have to be quoted in ``ckpt_path=<run>/...``.

    Args:
        jobs: overrides of each.
        words: the command line; of a job that comes alone, what does not stand there is what a search has chosen.
    """
    alone = len(jobs) == 1
    tables = [dict(split(word) for word in job if not alone or word not in words) for job in jobs]
    keys = list(dict.fromkeys(key for table in tables for key in table))
    varied = [key for key in keys if alone or len({table.get(key) for table in tables}) > 1]
    last = [key.rpartition(".")[2] for key in varied]
    short = {key: name if last.count(name) == 1 else key for key, name in zip(varied, last, strict=True)}
    return ["_".join(_part(short[key], table[key]) for key in varied if key in table)[:LONGEST] for table in tables]


def split(word: str) -> tuple[str, str]:
    """Key and value of an override, without the marks of adding and forcing."""
    key, _, value = word.partition("=")
    return key.lstrip("+~"), value


def _part(key: str, value: str) -> str:
    clean = re.sub(r"[^A-Za-z0-9.+]+", "-", value).strip("-")
    if value.lstrip().startswith("-"):
        clean = f"-{clean}"
    return f"{re.sub(r'[^A-Za-z0-9.]+', '-', key)}-{clean or 'none'}"
