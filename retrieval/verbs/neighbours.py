"""Find the nearest neighbours of every clip among the clips of its own step, for whole training sets.

python -m retrieval neighbours --store data/features --view efficientnet-lite0 -k 8 --out data/neighbours.parquet
"""

import json
from dataclasses import dataclass, field
from pathlib import Path

from jsonargparse.typing import PositiveInt

from common.cli.options import parse


@dataclass(frozen=True)
class Options:
    """Find the nearest neighbours of every clip among the clips of its own step, exactly."""

    store: Path
    """folder of the feature store"""
    view: str
    """feature view of the clips"""
    out: Path
    """Parquet file to write: clip, the column of --within, neighbours and similarities (best first)"""
    within: str = "step"
    """column of the catalog in which neighbours have equal values; clips without a value are left out"""
    k: int = field(default=8, metadata={"type": PositiveInt})
    """neighbours of a clip, fewer if its step has fewer"""
    other_videos: bool = False
    """exclude neighbours from the clip's own video"""
    max_memory: str = "4GB"
    """memory that may be used"""
    feature: str = "embedding"
    """array of the view to compare"""
    json: bool = False
    """print the counts as one JSON object"""


def run(options: Options) -> int:
    """Run the verb; returns the exit status."""
    from retrieval.mining.join import join
    from store import Store

    store = Store.open(options.store)
    clips = join(
        store,
        store.view("clips", options.view),
        options.out,
        options.within,
        options.k,
        options.other_videos,
        options.max_memory,
        options.feature,
    )
    if options.json:
        print(json.dumps({"clips": clips, "k": options.k, "within": options.within, "out": str(options.out)}))
    else:
        print(f"{options.out}: up to {options.k} neighbours for each of {clips} clips, from the same {options.within}")
    return 0


def main(argv: list[str]) -> int:
    return parse(Options, argv, "retrieval neighbours", __doc__, run)
