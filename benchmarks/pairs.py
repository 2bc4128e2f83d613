"""Choosing pairs out of a large catalog: how long it takes, and how much memory.

python -m benchmarks.pairs                                    # 10 million clips in 100,000 steps, about two minutes
python -m benchmarks.pairs --clips 1000000 --steps 10000      # a first look

The catalog is made in a temporary folder, a million clips a part, as featurize would have left it. Some test clips are
held out. The choice runs in a process of its own, whose peak of memory counts.
"""

import json
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness.report import benchmark, line
from stepdiff.common.cli import command

if TYPE_CHECKING:
    from store import Store

SECONDS, GIB = 60.0, 4.0
PART = 1_000_000
OF_VIDEO = 10  # clips
TEST_CLIPS = 8000
# time and peak memory of a process that does nothing else
_MEASURED = """
import json, resource, sys, time
from stepdiff.annotate.pairs import PairsOptions, run
begin = time.monotonic()
record = run(PairsOptions(*sys.argv[1:3], hold_out=(sys.argv[3],), hold_out_by="clip", cap=int(sys.argv[4])))
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
print(json.dumps({"seconds": time.monotonic() - begin, "gib": peak, "record": record}))
"""


@dataclass(frozen=True)
class Options:
    clips: int = 10_000_000
    """clips of the catalog"""
    steps: int = 100_000
    """steps that they show"""
    cap: int = 20
    """pairs a step, at most"""
    seed: int = 0
    """seed of the catalog"""


def make_catalog(store: "Store", options: Options) -> None:
    """Write ten clips of each video, each clip of a random step."""
    import polars as pl

    from stepdiff.common.io import sealed as table
    from store.catalog.parts import part_name

    rng = np.random.default_rng(options.seed)
    store.catalog("clips").folder.mkdir(parents=True)  # type: ignore[union-attr]
    for first in range(0, options.clips, PART):
        rows = np.arange(first, min(first + PART, options.clips))
        video = pl.format("video{}", pl.col("video").cast(pl.String).str.zfill(9))
        frame = pl.DataFrame(
            {
                "video": rows // OF_VIDEO,
                "start": rows % OF_VIDEO * 20.0,
                "step": rng.integers(options.steps, size=len(rows)),
            }
        ).select(
            pl.format("{}_{}_{}", video, "start", pl.col("start") + 12.25).alias("key"),
            pl.Series("row", rows),
            pl.format("videos/{}.mp4", video).alias("video"),
            "start",
            (pl.col("start") + 12.25).alias("end"),
            pl.format("Whisk the eggs with the milk, in the manner number {}", "step").alias("step"),
            pl.lit("train").alias("split"),
        )
        (Path(str(store.path)) / "catalog/clips" / part_name(first)).write_bytes(table.encode(frame))


def make_test_set(path: Path, videos: int) -> None:
    """Write pairs of clips of evenly spaced videos: the first by its id, the second by a moment that it shares."""
    rows = (
        {
            "reference": f"video{n:09d}_0.0_12.25",
            "candidate": f"video{n:09d}_30_31",
            "category": "Visuals",
            "text": ["x"],
        }
        for n in range(0, videos, max(2 * videos // TEST_CLIPS, 1))
    )
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run(options: Options) -> dict[str, Any]:
    """Return a row; lines only for the default size."""
    from store import Store

    with tempfile.TemporaryDirectory() as folder:
        store, test_set = Path(folder) / "features", Path(folder) / "test.jsonl"
        make_catalog(Store.open(store, create=True), options)
        make_test_set(test_set, options.clips // OF_VIDEO)
        arguments = [str(store), f"{folder}/pairs.parquet", str(test_set), str(options.cap)]
        found = json.loads(subprocess.check_output([sys.executable, "-c", _MEASURED, *arguments], text=True))
    row = {
        "clips": options.clips,
        "steps": options.steps,
        "pairs": found["record"]["pairs"],
        "held out": sum(found["record"]["left_out"].values()),
        "seconds": round(found["seconds"], 3),
        "peak GiB": round(found["gib"], 2),
    }
    lines = []
    if (options.clips, options.steps) == (Options.clips, Options.steps):
        lines = [
            line("seconds", SECONDS, found["seconds"], 1.0, f"{SECONDS:.0f} s"),
            line("memory", GIB, found["gib"], 1.0, f"{GIB:.0f} GiB"),
        ]
    return {"rows": [row], "lines": lines}


main = benchmark("pairs", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
