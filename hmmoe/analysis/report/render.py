"""The tables on a terminal and in files: Markdown, LaTeX, CSV."""

import csv
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table as RichTable

from hmmoe.analysis.report.table import Table

LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "<": "$<$", ">": "$>$", "~": r"\textasciitilde{}"}
LATEX |= {sign: f"\\{sign}" for sign in "%&_#${}"} | {"^": r"\textasciicircum{}"}


def show(table: Table, console: Console) -> None:
    """On the terminal."""
    shown = RichTable(title=table.title, title_justify="left", title_style="bold")
    for index, column in enumerate(table.columns):
        shown.add_column(column, justify="left" if index == 0 or column in ("flags", "against") else "right")
    for line in table.lines:
        shown.add_row(*line)
    console.print(shown)


def markdown(tables: Sequence[Table], notes: Sequence[str], title: str) -> str:
    """One document."""
    parts = [f"# {title}"]
    for table in tables:
        lines = [table.columns, ["---"] * len(table.columns), *table.lines]
        body = "\n".join("| " + " | ".join(cell.replace("|", r"\|") for cell in line) + " |" for line in lines)
        parts.append(f"## {table.title}\n\n{body}")
    parts.append("\n".join(f"* {note}" for note in notes))
    return "\n\n".join(part for part in parts if part) + "\n"


def latex(tables: Sequence[Table], notes: Sequence[str]) -> str:
    """Tables for booktabs, notes as comments."""
    parts = ["% \\usepackage{booktabs}"]
    for table in tables:
        rows = [" & ".join(map(escaped, line)) + r" \\" for line in table.lines]
        parts += [
            r"\begin{table}\centering",
            rf"\caption{{{escaped(table.title)}}}",
            rf"\begin{{tabular}}{{l{'r' * (len(table.columns) - 1)}}}",
            r"\toprule",
            " & ".join(map(escaped, table.columns)) + r" \\",
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
            r"\end{table}",
            "",
        ]
    return "\n".join([*parts, *(f"% {note}" for note in notes)]) + "\n"


def escaped(text: str) -> str:
    """Text that LaTeX prints as it stands."""
    return "".join(LATEX.get(sign, sign) for sign in text)


def write_csv(path: Path, lines: Sequence[Mapping[str, Any]]) -> None:
    """All keys of all lines as columns, in order of appearance."""
    names = list(dict.fromkeys(key for line in lines for key in line))
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, names)
        writer.writeheader()
        writer.writerows(lines)
