"""Estimate the bytes, memory and hours of an index before it is built, from rates measured on this machine.

python -m retrieval plan --clips 136e6 --dim 768
"""

import json
from dataclasses import asdict, dataclass, field

from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from common.cli.options import parse
from common.errors import StepDiffError


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
    from retrieval.index.factory import FLAT, budgets, choose, costs, measure, pieces, show

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
        show(title, choice.factory, planned, rates)
    return 0


def main(argv: list[str]) -> int:
    return parse(Options, argv, "retrieval plan", __doc__, run)
