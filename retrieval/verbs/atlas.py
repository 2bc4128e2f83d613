"""Write a view's clips as a Parquet file that Embedding Atlas opens: a 2-D map, neighbours and the catalog's columns.

python -m retrieval atlas --store data/features --view efficientnet-lite0 --out map.parquet
python -m retrieval atlas --store data/features --view efficientnet-lite0 --out map.parquet \\
    --where "split = 'train' AND duration > 3" --projection umap --neighbours 0
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import NonNegativeInt

from common.cli.options import parse


@dataclass(frozen=True)
class Options:
    """Write a view's clips as a Parquet file that Embedding Atlas opens."""

    store: Path
    """folder of the feature store"""
    view: str
    """feature view of the clips; one that has only tokens is mapped by their mean"""
    out: Path
    """Parquet file to write: clip, the catalog's columns, x, y and neighbours"""
    where: str | None = None
    """condition on the catalog as after SQL's WHERE: only clips that fulfil it are written"""
    neighbours: int = field(default=15, metadata={"type": NonNegativeInt})
    """nearest clips of each clip, among those that are written; beyond 100,000 clips they need an index; 0: none"""
    projection: Literal["pca", "umap"] = "pca"
    """pca, or umap (pip install 'stepdiff[umap]')"""
    feature: str | None = None
    """array of the view to compare; by default the index's, or embedding, or the mean of tokens"""


def run(options: Options) -> dict[str, Any]:
    """Run the verb; returns the count and the command that opens the file."""
    from retrieval.atlas import write_atlas
    from store import Store

    store = Store.open(options.store)
    view = store.view("clips", options.view)
    given = (options.where, options.neighbours, options.projection, options.feature)
    return {"out": str(options.out), **write_atlas(store, view, options.out, *given)}


def main(argv: list[str]) -> int:
    shown = "{out}: {clips} clips with x, y and up to {neighbours} neighbours each; open it with\n{command}"
    return parse(Options, argv, "retrieval atlas", __doc__, run, shown)
