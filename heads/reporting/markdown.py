"""A grid in Markdown, as GitHub draws it.

Guarantees
- a name stands as it is: nothing in it becomes a column, a row, an emphasis, an entity, a formula or a tag
"""

import re

from heads.reporting.grid import Cell, Grid


def write(grid: Grid) -> str:
    """Heading, table and notes; every line ends with a newline."""
    lines = [f"## {escape(grid.title)}", ""]
    lines.append(_row([grid.first, *(f"{group} {name}".strip() for group, name in grid.columns)]))
    lines.append("| --- |" + " --- |" * len(grid.columns))
    for block in grid.blocks:
        if block.title:
            lines.append(_row([f"_{escape(block.title)}_", *[""] * len(grid.columns)], escaped=True))
        for name, cells in block.rows:
            lines.append(_row([escape(name), *map(_cell, cells)], escaped=True))
    for note in grid.notes:
        lines += ["", escape(note)]
    return "\n".join([*lines, "", ""])


def escape(text: str) -> str:
    return re.sub(r"([\\`*_<>|\[\]~&$#])", r"\\\1", " ".join(text.splitlines()))


def _row(cells: list[str], escaped: bool = False) -> str:
    return "| " + " | ".join(cells if escaped else map(escape, cells)) + " |"


def _cell(cell: Cell | None) -> str:
    if cell is None:
        return "–"
    main = escape(cell.main)
    return " ".join(filter(None, [(f"**{main}**" if cell.bold else main) + escape(cell.mark), escape(cell.interval)]))
