"""A grid on a terminal."""

from rich.console import Group
from rich.table import Table
from rich.text import Text

from heads.reporting.grid import Cell, Grid


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
