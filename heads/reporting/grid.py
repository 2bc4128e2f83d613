"""Results as rows of a frame, tables of them as grids of cells, and the renderers: terminal,
Markdown and LaTeX.

    rows = list(pivot(results, ["BLEU", "CIDEr"]).items())
    show([Grid("captions", "method", [("", "BLEU"), ("", "CIDEr")], [Block("", rows)])])

Guarantees
- Markdown renders a name unchanged: nothing in it becomes a column, a row, an emphasis, an entity,
  a formula or a tag
- LaTeX renders a name unchanged: nothing in it becomes a command, a ligature or a paragraph
"""

import re
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby
from types import MappingProxyType
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text


def number(value: float, form: str) -> str:
    """Return a figure as a cell shows it, with a minus sign."""
    written = format(value, form)
    # -0.0002 is shown as 0
    return format(0.0, form) if float(written) == 0 else written.replace("-", "−")


@dataclass(frozen=True)
class Cell:
    main: str
    interval: str = ""
    bold: bool = False
    mark: str = ""
    """after the figure: above or below the best baseline"""


def between(interval: Sequence[float] | None, form: str = ".3f") -> str:
    return "" if interval is None else f"[{number(interval[0], form)}, {number(interval[1], form)}]"


Row = tuple[str, list[Cell | None]]  # a name and its cells; None: not measured


@dataclass(frozen=True)
class Result:
    """A row of the frame of results: one figure of one system."""

    system: str
    figure: Hashable
    """names the column of a table"""
    value: float | int | None
    """None: undefined; an int is a count"""
    interval: Sequence[float] | None = None
    bold: bool = False
    mark: str = ""
    """after the value: above or below the best baseline"""


def results_of(
    system: str,
    values: Mapping[Any, float | int | None],
    intervals: Mapping[Any, Any] = MappingProxyType({}),
) -> list[Result]:
    """Return the results of a system from its figures and their intervals."""
    return [
        Result(system, figure, value, intervals.get(figure)) for figure, value in values.items()
    ]


def pivot(
    results: Iterable[Result], figures: Iterable[Hashable], form: str = ".3f", ends: str = ""
) -> dict[str, list[Cell | None]]:
    """Return for each system its cells of some figures; `ends`: form of the intervals, if it is
    another one."""
    columns, systems = list(figures), dict[str, dict[Hashable, Cell]]()
    for one in results:
        cell = Cell("undefined")
        if isinstance(one.value, int):
            cell = Cell(str(one.value))
        elif one.value is not None:
            cell = Cell(
                number(one.value, form), between(one.interval, ends or form), one.bold, one.mark
            )
        systems.setdefault(one.system, {})[one.figure] = cell
    return {system: [cells.get(figure) for figure in columns] for system, cells in systems.items()}


@dataclass(frozen=True)
class Block:
    """Rows between two lines, with or without a title."""

    title: str
    rows: list[Row]


@dataclass(frozen=True)
class Grid:
    title: str
    first: str
    """heading of the rows' names"""
    columns: list[tuple[str, str]]
    """(group, heading); neighbouring columns of one group share its heading"""
    blocks: list[Block]
    notes: Sequence[str] = ()


_NAME = 24  # columns of the terminal that names have at least next to intervals


def show(grids: Iterable[Grid], width: int = 160) -> None:
    """Print tables, `width` columns wide if standard output is no terminal. Where a table is wider,
    intervals are below their figures."""
    console = Console(width=None if sys.stdout.isatty() else width)
    for grid in grids:
        names = max((len(name) for block in grid.blocks for name, _ in block.rows), default=0)
        wide = console.measure(_table(grid), options=console.options.update(max_width=1000))
        # a longer name is folded
        below = wide.maximum - max(names - _NAME, 0) > console.width
        console.print(Text(grid.title, style="bold"), _table(grid, "\n" if below else " "))
        for note in grid.notes:
            console.print(Text(note), soft_wrap=True)
        console.print()


def _table(grid: Grid, before_interval: str = " ") -> Table:
    """Return the table for rich, with the minus of ASCII, which programs read. Names are not
    markup."""
    table = Table(box=SIMPLE_HEAD)
    table.add_column(grid.first, overflow="fold")
    for group, name in grid.columns:
        table.add_column(
            Text(f"{group}\n{name}" if group else name), justify="left", overflow="fold"
        )
    for block in grid.blocks:
        table.add_section()
        if block.title:
            table.add_row(Text(f"{block.title}:", style="italic"))
        for name, cells in block.rows:
            table.add_row(Text(name), *(_text_cell(cell, before_interval) for cell in cells))
    return table


def _text_cell(cell: Cell | None, before_interval: str) -> Text:
    if cell is None:
        return Text("–")
    main, interval = (shown.replace("−", "-") for shown in (cell.main, cell.interval))
    text = Text(main, style="bold" if cell.bold else "")
    return text.append(cell.mark, style="not bold").append(
        f"{before_interval}{interval}" if interval else "", "not bold"
    )


def to_markdown(grid: Grid) -> str:
    """Return heading, table and notes in GitHub's Markdown; every line ends with a newline."""
    headings = [grid.first, *(f"{group} {name}".strip() for group, name in grid.columns)]
    rows = [[escape_markdown(heading) for heading in headings], ["---"] * len(headings)]
    for block in grid.blocks:
        if block.title:
            rows.append([f"_{escape_markdown(block.title)}_", *[""] * len(grid.columns)])
        rows += [[escape_markdown(name), *map(_markdown_cell, cells)] for name, cells in block.rows]
    lines = [f"## {escape_markdown(grid.title)}", "", *(f"| {' | '.join(row)} |" for row in rows)]
    for note in grid.notes:
        lines += ["", escape_markdown(note)]
    return "\n".join([*lines, "", ""])


def escape_markdown(text: str) -> str:
    return re.sub(r"([\\`*_<>|\[\]~&$#])", r"\\\1", " ".join(text.splitlines()))


def _markdown_cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    main, mark, interval = map(escape_markdown, (cell.main, cell.mark, cell.interval))
    return f"{f'**{main}**' if cell.bold else main}{mark} {interval}".strip()


HEAD = r"""% pdflatex; lualatex or xelatex if names have non-Latin letters
\documentclass{article}
\usepackage[landscape,margin=15mm]{geometry}
\usepackage[T1]{fontenc}
\usepackage{lmodern,textcomp}
\usepackage{booktabs}
\setlength{\parindent}{0pt}
\begin{document}
"""
END = "\\end{document}\n"
ESCAPES = str.maketrans(
    {
        "\\": r"\textbackslash{}",
        "~": r"\textasciitilde{}",
        "^": r"\textasciicircum{}",
        "<": r"\textless{}",
        ">": r"\textgreater{}",
        "|": r"\textbar{}",
        "τ": r"$\tau$",
        "†": r"\textdagger{}",
        "‡": r"\textdaggerdbl{}",
        "–": "--",
        "−": "$-$",
        "[": "{[}",  # after \\ a bracket would be an argument
        "]": "{]}",
        "*": "{*}",
        '"': r"\textquotedbl{}",
        "-": "{-}",  # so that two are not a dash
        "\0": "{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


def to_latex(grids: Sequence[Grid]) -> str:
    """Return grids as one LaTeX document of booktabs tables."""
    return HEAD + "\n".join(map(_latex_table, grids)) + END


def escape_latex(text: str) -> str:
    # two quotes would become one
    separated = re.sub(r"(?<=['`?!,])(?=['`])", "\0", " ".join(text.splitlines()))
    return separated.translate(ESCAPES)


def _latex_table(grid: Grid) -> str:
    width = len(grid.columns) + 1
    lines = [
        r"\begin{center}\small",
        rf"\textbf{{{escape_latex(grid.title)}}}\par\nopagebreak\smallskip",
    ]
    lines += [rf"\begin{{tabular}}{{{'l' * width}}}", r"\toprule"]
    if any(group for group, _ in grid.columns):
        over, rules, first = [""], "", 2
        for group, columns in groupby(group for group, _ in grid.columns):
            count = len(list(columns))
            over.append(rf"\multicolumn{{{count}}}{{l}}{{{escape_latex(group)}}}")
            rules += rf"\cmidrule(lr){{{first}-{first + count - 1}}}" if group else ""
            first += count
        lines += [_latex_row(over), rules]
    lines.append(_latex_row(map(escape_latex, [grid.first, *(name for _, name in grid.columns)])))
    for block in grid.blocks:
        lines.append(r"\midrule")
        if block.title:
            lines.append(
                _latex_row(
                    [rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escape_latex(block.title)}}}}}"]
                )
            )
        lines += [
            _latex_row([escape_latex(name), *map(_latex_cell, cells)]) for name, cells in block.rows
        ]
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip{{\footnotesize {escape_latex(note)}\par}}" for note in grid.notes]
    return "\n".join([*lines, r"\end{center}", ""])


def _latex_row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _latex_cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    main = rf"\textbf{{{escape_latex(cell.main)}}}" if cell.bold else escape_latex(cell.main)
    mark = rf"\textsuperscript{{{escape_latex(cell.mark)}}}" if cell.mark else ""
    return (
        main + mark + (rf" {{\scriptsize {escape_latex(cell.interval)}}}" if cell.interval else "")
    )
