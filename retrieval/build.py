"""Building an index from the command line.

python -m retrieval build --store data/features --view efficientnet-lite0
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from retrieval.index import build_index, paths
from store import Store


@dataclass(frozen=True)
class Options:
    """Build the FAISS index of a view, beside a card that says what it was built from."""

    store: Path
    """folder of the feature store"""
    view: str
    """feature view to index"""
    entity: Literal["clips", "texts"] = "clips"
    """whose view: clips or texts"""
    feature: str = "embedding"
    """the array of the view that is indexed: one vector a row"""
    factory: str = "auto"
    """FAISS factory string; auto is exact below 100,000 rows, IVF with half floats to 10 million,
    IVF with product quantisation beyond"""
    json: bool = False
    """print the card as one JSON object"""


def run(options: Options) -> int:
    """The verb `build`; returns the exit status."""
    store = Store.open(options.store)
    view = store.view(options.entity, options.view)
    card = build_index(store, view, options.feature, options.factory)
    if options.json:
        print(json.dumps(card))
    else:
        path, _ = paths(store, view.entity, view.name)
        print(f"{path}: {card['factory']} over {card['rows']} rows in {card['seconds']:.1f} s")
    return 0
