"""Estimate the bytes, memory and hours of an index before it is built, from rates measured on this machine.

python -m retrieval plan --clips 136e6 --dim 768
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING

from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from common.cli.options import parse
from common.errors import StepDiffError

if TYPE_CHECKING:  # `run` imports what it needs: --help stays fast
    import retrieval.index.costs


@dataclass(frozen=True)
class Options:
    """Estimate the bytes, memory and hours of an index with each factory, from rates measured here."""

    clips: float
    """rows, e.g. 136e6"""
    dim: int = field(default=768, metadata={"type": PositiveInt})
    """channels of an embedding"""
    machines: int = field(default=1, metadata={"type": PositiveInt})
    """machines like this one that fill parts"""
    max_memory: str | None = None
    """limit of the index's memory during a search, e.g. 20GB"""
    max_latency: str | None = None
    """limit of one query's time, e.g. 10ms"""
    min_recall: float = field(default=0.95, metadata={"type": ClosedUnitInterval})
    """share of the 10 nearest clips to be found"""
    json: bool = False
    """print one JSON object"""


def run(options: Options) -> int:
    """Run the verb; returns the exit status."""
    from retrieval.index.costs import costs, measure
    from retrieval.index.factory import FLAT, budgets, choose, pieces

    rows = round(options.clips)
    if rows < 1:
        raise StepDiffError(f"--clips {options.clips:g} is not a number of rows: give 1 or more, e.g. 136e6")
    given = budgets(options.max_memory, options.max_latency, options.min_recall)
    choice = choose(rows, options.dim, given)
    codes = list(dict.fromkeys(["SQfp16", "SQ8", f"PQ{pieces(options.dim)}", choice.factory.rpartition(",")[2]]))
    rates = measure(options.dim, [code for code in codes if code != FLAT])
    planned = costs(rows, options.dim, rates, options.machines)
    if options.json:
        given_options = {"rows": rows, "dim": options.dim, "machines": options.machines}
        made = {"factory": choice.factory, "why": choice.why, "costs": [asdict(cost) for cost in planned]}
        print(json.dumps({**given_options, **made, "rates": asdict(rates)}))
    else:
        title = f"{rows:,} rows of {options.dim} channels: {choice.factory} ({choice.why})"
        _print(title, choice.factory, planned, rates)
    return 0


def _print(
    title: str, chosen: str, planned: list[retrieval.index.costs.Cost], rates: retrieval.index.costs.Rates
) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, padding=0)
    heads = ("disk GB", "search GB", "build GB", "train h", "add h", "merge h", "hours", "exact query")
    table.add_column("factory", no_wrap=True)
    for head in heads:
        table.add_column(head, justify="right", no_wrap=True)
    for cost in planned:
        sizes = (cost.bytes, cost.search_memory, cost.build_memory)
        hours = (cost.training_hours, cost.adding_hours, cost.merging_hours, cost.hours)
        query = "" if cost.exact_query_seconds is None else f"{cost.exact_query_seconds:,.2f} s"
        figures = [*(f"{size / 1e9:,.1f}" for size in sizes), *(f"{hour:,.2f}" for hour in hours), query]
        table.add_row(cost.factory, *figures, style="bold" if cost.factory == chosen else None)
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 120)
    console.print(title, highlight=False)
    console.print(table)
    encoded = ", ".join(f"{rate:,.0f} rows/s to {code}" for code, rate in rates.encoded.items())
    print(
        f"measured on {rates.cores} cores: {rates.products / 1e9:,.0f} GFLOP/s of products, {encoded}, "
        f"{rates.passed / 1e9:,.1f} GB/s read by a query, {rates.written / 1e6:,.0f} MB/s written"
    )


def main(argv: list[str]) -> int:
    return parse(Options, argv, "retrieval plan", __doc__, run)
