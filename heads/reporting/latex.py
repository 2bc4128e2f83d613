"""Grids as one LaTeX document of booktabs tables, to compile as it is or to copy a table from.

Guarantees
- a name stands as it is: nothing in it becomes a command, a ligature or a paragraph
"""

import re
from collections.abc import Iterable, Sequence

from heads.reporting.grid import Cell, Grid

HEAD = r"""% pdflatex; lualatex or xelatex where names hold letters beyond Latin ones
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
        "[": "{[}",  # behind \\ a bracket would be an argument
        "]": "{]}",
        "*": "{*}",
        '"': r"\textquotedbl{}",
        "-": "{-}",  # two of them are no dash
        "\0": "{}",
        **{character: f"\\{character}" for character in "&%$#_{}"},
    }
)


def write(grids: Sequence[Grid]) -> str:
    return HEAD + "\n".join(map(_table, grids)) + END


def escape(text: str) -> str:
    parted = re.sub(r"(?<=['`?!,])(?=['`])", "\0", " ".join(text.splitlines()))  # two quotes would become another
    return parted.translate(ESCAPES)


def _table(grid: Grid) -> str:
    width = len(grid.columns) + 1
    lines = [r"\begin{center}\small", rf"\textbf{{{escape(grid.title)}}}\par\nopagebreak\smallskip"]
    lines += [rf"\begin{{tabular}}{{{'l' * width}}}", r"\toprule"]
    if any(group for group, _ in grid.columns):
        over, rules, first = [""], [], 2
        for group, columns in grid.groups():
            over.append(rf"\multicolumn{{{columns}}}{{l}}{{{escape(group)}}}")
            rules.append(rf"\cmidrule(lr){{{first}-{first + columns - 1}}}")
            first += columns
        lines += [_row(over), "".join(rules)]
    lines.append(_row(map(escape, [grid.first, *(name for _, name in grid.columns)])))
    for block in grid.blocks:
        lines.append(r"\midrule")
        if block.title:
            lines.append(_row([rf"\multicolumn{{{width}}}{{l}}{{\emph{{{escape(block.title)}}}}}"]))
        for name, cells in block.rows:
            lines.append(_row([escape(name), *map(_cell, cells)]))
    lines += [r"\bottomrule", r"\end{tabular}"]
    lines += [rf"\par\smallskip{{\footnotesize {escape(note)}\par}}" for note in grid.notes]
    return "\n".join([*lines, r"\end{center}", ""])


def _row(cells: Iterable[str]) -> str:
    return " & ".join(cells) + r" \\"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "--"
    main = rf"\textbf{{{escape(cell.main)}}}" if cell.bold else escape(cell.main)
    mark = rf"\textsuperscript{{{escape(cell.mark)}}}" if cell.mark else ""
    between = rf" {{\scriptsize {escape(cell.interval)}}}" if cell.interval else ""
    return main + mark + between
