"""Find the nearest neighbours of every clip among the clips of its own step, for whole training sets.

python -m retrieval neighbours --store data/features --view efficientnet-lite0 -k 8 --out data/neighbours.parquet
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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


def run(options: Options) -> dict[str, Any]:
    """Run the verb; returns the counts."""
    from retrieval.mining.neighbours import join
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
    return {"clips": clips, "k": options.k, "within": options.within, "out": str(options.out)}


def main(argv: list[str]) -> int:
    shown = "{out}: up to {k} neighbours for each of {clips} clips, from the same {within}"
    return parse(Options, argv, "retrieval neighbours", __doc__, run, shown)
