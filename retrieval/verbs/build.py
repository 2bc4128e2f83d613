"""The commands of indexes: `build` and `plan`."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from stepdiff.common.cli.options import Bytes, parse
from stepdiff.common.errors import StepDiffError

BUILD = """Build the index of a view, or add new rows to it.

python -m retrieval build --store data/features --view efficientnet-lite0
python -m retrieval build --store data/features --view clip --max-memory 20GB --max-latency 10ms --min-recall 0.95
"""
PLAN = """Choose an index for a number of clips, and estimate the memory of each that suits it.

python -m retrieval plan --clips 136e6 --dim 768
"""


@dataclass(frozen=True)
class Options:
    """Options of `build`."""

    store: Path
    """folder of the feature store"""
    view: str
    """feature view to index"""
    entity: Literal["clips", "texts"] = "clips"
    """entity of the view: clips or texts"""
    feature: str = "embedding"
    """array of the view to index: one vector a row"""
    factory: str = "auto"
    """FAISS factory string; auto is exact below 10,000 rows, an HNSW graph over half floats up to a million,
    IVF with half floats up to 10 million and with product quantisation beyond, or smaller where a budget requires it"""
    max_memory: int | None = field(default=None, metadata={"type": Bytes | None})
    """limit of the index's memory during a search, e.g. 20GB"""
    max_latency: str | None = None
    """limit of the median time of one query, e.g. 10ms"""
    min_recall: float = field(default=0.95, metadata={"type": ClosedUnitInterval})
    """share of the 10 nearest clips to be found; decides how much of the index a query visits"""
    rebuild: bool = False
    """train again, even if new rows could be added to the existing index"""
    workers: int | None = field(default=None, metadata={"type": PositiveInt | None})
    """processes that fill parts of an IVF index, by default one per CPU; 1 works without Ray"""
    address: str | None = None
    """Ray cluster; by default a local one is started if there is more than one part"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where an IVF index is trained and filled; auto is a GPU if FAISS has one and the view has a million rows"""
    json: bool = False
    """print the card as one JSON object"""


def build(options: Options) -> int:
    """Run `build`; returns the exit status: 1 if the index exceeds a budget."""
    from retrieval.index.builder import broken, build_index
    from retrieval.index.factory import budgets
    from retrieval.index.index_card import build_command, card_path
    from store import Store

    given = budgets(options.max_memory, options.max_latency, options.min_recall)
    store = Store.open(options.store)
    view = store.view(options.entity, options.view)
    more: dict[str, Any] = {"workers": options.workers, "address": options.address, "device": options.device}
    card = build_index(store, view, options.feature, options.factory, given, options.rebuild, **more)
    if options.json:
        print(json.dumps(card))
    else:
        path = card_path(store, view.entity, view.name)
        print(f"{path}: {card['factory']} over {card['rows']} rows in {card['seconds']:.1f} s ({card['why']})")
        if not card["exact"]:
            unit = "candidates" if card["factory"].startswith("HNSW") else "lists"
            print(
                f"recall@{card['recall_k']} {card['recall']:.3f} over {card['recall_queries']} rows, {card['probes']} "
                f"{unit} a query, {card['latency'] * 1e3:.1f} ms a query, {card['bytes'] / 1e6:,.1f} MB"
            )
    rebuild = build_command(store, view, card, "--rebuild")
    if card.get("rebuild"):
        print(f"{card['new_share']:.0%} of the rows were added after training: run {rebuild}", file=sys.stderr)
    lines = broken(card, given, rebuild)
    for line in lines:
        print(f"error: {line}", file=sys.stderr)
    return int(bool(lines))


def main(argv: list[str]) -> int:
    return parse(Options, argv, "retrieval build", BUILD, build)


@dataclass(frozen=True)
class PlanOptions:
    """Options of `plan`."""

    clips: float
    """rows, e.g. 136e6"""
    dim: int = field(default=768, metadata={"type": PositiveInt})
    """channels of an embedding"""
    max_memory: int | None = field(default=None, metadata={"type": Bytes | None})
    """limit of the index's memory during a search, e.g. 20GB"""
    max_latency: str | None = None
    """limit of one query's time, e.g. 10ms"""
    min_recall: float = field(default=0.95, metadata={"type": ClosedUnitInterval})
    """share of the 10 nearest clips to be found"""


def plan(options: PlanOptions) -> dict[str, Any]:
    """Run `plan`; returns the choice, and the bytes of each factory string."""
    from retrieval.index.factory import FLAT, budgets, choose, factories, memory_bytes

    rows = round(options.clips)
    if rows < 1:
        raise StepDiffError(f"--clips {options.clips:g} is not a number of rows: give 1 or more, e.g. 136e6")
    choice = choose(rows, options.dim, budgets(options.max_memory, options.max_latency, options.min_recall))
    names = dict.fromkeys([FLAT, *factories(rows, options.dim)[:4], choice.factory])
    sizes = {name: memory_bytes(name, rows, options.dim) for name in names}
    return {"rows": rows, "dim": options.dim, "factory": choice.factory, "why": choice.why, "bytes": sizes}


def show_plan(record: dict[str, Any]) -> None:
    """Print the choice and a table."""
    print("{rows:,} rows of {dim} channels: {factory} ({why})\n".format(**record))
    width = max(map(len, record["bytes"]))
    for factory, size in record["bytes"].items():
        print(f"  {factory:<{width}}  {size / 1e9:>10,.2f} GB")


def plan_main(argv: list[str]) -> int:
    return parse(PlanOptions, argv, "retrieval plan", PLAN, plan, show_plan)
