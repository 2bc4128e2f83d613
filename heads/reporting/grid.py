"""A table before it has a form: what stands in which cell, for the writers of text, Markdown and LaTeX.

A grid on a terminal.
"""

from dataclasses import dataclass

from rich.console import Group
from rich.table import Table
from rich.text import Text


def number(value: float, form: str) -> str:
    """A figure as a cell writes it, in a form of `format`."""
    written = format(value, form)
    return format(0.0, form) if float(written) == 0 else written.replace("-", "−")  # -0.0002 is no less than 0


@dataclass(frozen=True)
class Cell:
    main: str
    interval: str = ""
    bold: bool = False
    mark: str = ""
    """behind the figure: above or below the best baseline"""


Row = tuple[str, list[Cell | None]]  # a name and its cells; None: nothing was measured


@dataclass(frozen=True)
class Block:
    """Rows between two lines; without a title where they need no word."""

    title: str
    rows: list[Row]


@dataclass(frozen=True)
class Grid:
    title: str
    first: str
    """heading of the rows' names"""
    columns: list[tuple[str, str]]
    """(group, heading); neighbours of one group share it"""
    blocks: list[Block]
    notes: list[str]

    def groups(self) -> list[tuple[str, int]]:
        """Neighbouring columns of one group: (group, how many)."""
        found: list[tuple[str, int]] = []
        for group, _ in self.columns:
            if found and found[-1][0] == group:
                found[-1] = (group, found[-1][1] + 1)
            else:
                found.append((group, 1))
        return found


def draw(grid: Grid) -> Group:
    """What rich prints: the table and its notes. Names are no markup."""
    table = Table(title=Text(grid.title, style="bold"), title_justify="left")
    table.add_column(grid.first, overflow="fold")
    for group, name in grid.columns:
        table.add_column(Text(f"{group}\n{name}" if group else name), justify="left", overflow="fold")
    for number, block in enumerate(grid.blocks):
        if number:
            table.add_section()
        if block.title:
            table.add_row(Text(f"{block.title}:", style="italic"))
        for name, cells in block.rows:
            table.add_row(Text(name), *map(_cell, cells))
    return Group(table, *map(Text, grid.notes), "")


def _cell(cell: Cell | None) -> Text:
    if cell is None:
        return Text("–")
    text = Text(cell.main, style="bold" if cell.bold else "")
    return text.append(cell.mark, style="not bold").append(f" {cell.interval}" if cell.interval else "", "not bold")
