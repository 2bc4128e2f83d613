"""Which clips a head of words does not know: their leverage, and the share of them that it refuses.

stepdiff kitchen --out /tmp/other/world --videos 12 --seed 7
python -m featurize --manifest /tmp/other/world/clips.csv --store /tmp/other/world/features --encoder efficientnet-lite0
python -m featurize FOLDER_OF_VIDEOS --store /tmp/other/features --encoder efficientnet-lite0
python -m benchmarks.familiarity --words runs/words \\
    --stores data/features /tmp/other/world/features /tmp/other/features

The clips of a store are grouped by their split and by whether the head learned from clips of their step. Black frames
and frames of noise are encoded by the head's encoder.
"""

from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl
from jaxtyping import Float64

from benchmarks.harness import benchmark
from featurize.encoders import load
from heads.evidence.fitting import Guard, Pooled
from heads.evidence.head import WordHead, pool
from stepdiff.common.cli import command
from store import Store
from store.view import OK

COLUMNS = {"key": pl.String, "split": pl.String, "step": pl.String}
DRAWN = 8  # clips of noise


@dataclass(frozen=True)
class Options:
    words: str
    """folder of heads.words"""
    stores: tuple[str, ...]
    """stores with features of the head's view"""


def run(options: Options) -> dict[str, Any]:
    """Return the record: leverage and refused clips of each group."""
    head, rows = WordHead.load(options.words), []
    for name in options.stores:
        store = Store.open(name)
        head.check(store.view("clips", head.view))
        features = Pooled(store, head.view, head.pooling)
        catalog = store.catalog("clips").select(
            np.flatnonzero(features.view.status() == OK), pl.DataFrame(schema=COLUMNS)
        )
        groups = defaultdict[tuple[str, str], list[str]](list)
        for _, key, split, step in catalog.iter_rows():
            seen = "" if step is None else "learned" if step in head.familiarity.about.steps else "never seen"
            groups[split or "", seen].append(key)
        for (split, seen), clips in sorted(groups.items()):
            group = {"store": name, "split": split, "steps": seen}
            rows.append(group | _figures(head, Guard(head.familiarity, features).leverage(clips)))
    encoder = load(features.view.provenance.encoder)
    shape = (DRAWN, encoder.frames, encoder.size, encoder.size, 3)
    noise = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    for name, frames in (("noise", noise), ("black", np.zeros((1, *shape[1:]), np.uint8))):
        leverages = head.familiarity.leverage(pool(encoder.encode_clips(frames)["tokens"]))
        rows.append({"store": name, "split": "", "steps": ""} | _figures(head, leverages))
    return {"rows": rows, "races": []}


def _figures(head: WordHead, leverages: Float64[np.ndarray, " C"]) -> dict[str, Any]:
    least, middle, most = (float(f"{value:.3g}") for value in np.quantile(leverages, [0, 0.5, 1]))
    refused = int((leverages > head.familiarity.about.limit).sum())
    return {"clips": len(leverages), "least": least, "median": middle, "most": most, "refused": refused}


main = benchmark("familiarity", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
