"""Build the index of a view, or add new rows to it.

python -m retrieval build --store data/features --view efficientnet-lite0
python -m retrieval build --store data/features --view clip --factory IVF4096,SQ8 --min-recall 0.99
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from stepdiff_core.cli.options import parse


@dataclass(frozen=True)
class BuildOptions:
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
    """FAISS factory string; auto is exact below 10,000 rows, an HNSW graph over half floats up to a
    million, IVF with half floats up to 10 million and with product quantisation beyond"""
    min_recall: float = field(default=0.95, metadata={"type": ClosedUnitInterval})
    """share of the 10 nearest clips to be found; decides how much of the index a query visits"""
    rebuild: bool = False
    """train again, even if new rows could be added to the existing index"""
    workers: int | None = field(default=None, metadata={"type": PositiveInt | None})
    """processes that fill parts of an IVF index, by default one per CPU; 1 works without Ray"""
    address: str | None = None
    """Ray cluster; by default a local one is started if there is more than one part"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where an IVF index is trained and filled; auto is a GPU if FAISS has one and the view has a
    million rows"""
    json: bool = False
    """print the card as one JSON object"""


def build(options: BuildOptions) -> int:
    """Run `build`; returns the exit status: 1 if the index finds less than --min-recall."""
    from retrieval.index.builder import build_index
    from retrieval.index.index_card import build_command, card_path
    from store import Store

    store = Store.open(options.store)
    view = store.view(options.entity, options.view)
    names = ("factory", "rebuild", "workers", "address", "device")
    how = {name: getattr(options, name) for name in names}
    card = build_index(store, view, options.feature, least_recall=options.min_recall, **how)
    if options.json:
        print(json.dumps(card))
    else:
        path = card_path(store, view.entity, view.name)
        print(f"{path}: {card['factory']} over {card['rows']} rows in {card['seconds']:.1f} s")
        if not card["exact"]:
            unit = "candidates" if card["factory"].startswith("HNSW") else "lists"
            print(
                f"recall@{card['recall_k']} {card['recall']:.3f} over {card['recall_queries']} "
                f"rows, {card['probes']} {unit} a query, {card['bytes'] / 1e6:,.1f} MB"
            )
    rebuild = build_command(store, view, card, "--rebuild")
    if card.get("rebuild"):
        print(
            f"{card['new_share']:.0%} of the rows were added after training: run {rebuild}",
            file=sys.stderr,
        )
    if card["recall"] >= options.min_recall:
        return 0
    print(
        f"error: recall {card['recall']:.3f} is below --min-recall {options.min_recall}, with the "
        f"greatest effort: {rebuild} with --factory of larger codes or Flat, or a lower "
        "--min-recall",
        file=sys.stderr,
    )
    return 1


def main(argv: list[str]) -> int:
    return parse(BuildOptions, argv, "retrieval build", __doc__, build)
