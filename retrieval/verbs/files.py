"""The commands that write a file of a whole view or test set: `negatives`, `neighbours` and
`duplicates`."""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from jsonargparse.typing import ClosedUnitInterval, PositiveInt

from stepdiff_core.cli.options import WRITTEN, parse

SHOWN = 50  # rows of the printed table of duplicates
NEGATIVES = """Make DiffMCQ questions from a DiffCap test set; the view tells what looks alike.

python -m retrieval negatives --store data/features --view efficientnet-lite0 \\
    --test-set data/kitchen/diffcap_test.jsonl --variant V1 --out data/diffmcq_v1.jsonl
"""
NEIGHBOURS = """Find the nearest neighbours of every training clip among the clips of its step.

python -m retrieval neighbours --store data/features --view efficientnet-lite0 -k 8 \\
    --out data/neighbours.parquet
"""
DUPLICATES = """Find near-duplicate clips: the same footage in different videos.

python -m retrieval duplicates --store data/features --view efficientnet-lite0 --threshold 0.98
python -m retrieval duplicates --store data/features --view efficientnet-lite0 --against split \\
    --out duplicates.parquet

Every clip of a group is a duplicate of the group's first clip, which is listed first.
`--against split` keeps only clips that chains of duplicates connect with another split: leave out
the training clips among them, so that no duplicate of a test clip trains.
"""


@dataclass(frozen=True)
class OfClips:
    """A command about a view of clips."""

    store: Path
    """folder of the feature store"""
    view: str
    """feature view of the clips"""

    def opened(self) -> tuple[Any, Any]:
        """Return the store and the view."""
        from store import Store

        store = Store.open(self.store)
        return store, store.view("clips", self.view)


@dataclass(frozen=True)
class Negatives(OfClips):
    """Options of `negatives`."""

    test_set: Path
    """DiffCap file (JSON lines with reference, candidate, category, text)"""
    out: Path = field(metadata=WRITTEN)
    """DiffMCQ file to write"""
    variant: Literal["V1", "V2", "V3"] = "V1"
    """V1: no clip shared with the true pair; V2: clips may be shared, the pair may not;
    V3: one clip is kept, the other drawn at random"""
    text_view: str = "mpnet-base"
    """feature view of the texts, which decides which differences say the same (V1 and V2)"""
    threshold: float = field(default=0.8, metadata={"type": ClosedUnitInterval})
    """cosine of two difference texts above which they say the same (V1 and V2)"""
    feature: str = "embedding"
    """array of the clips' view to compare"""
    allow_reversed: bool = False
    """V2 may have the true pair reversed as an option, as supplement S5 is written; by default it
    counts as the pair"""
    seed: int = 0
    """decides the order of the options and the draws of V3"""
    truth: Path | None = None
    """attributes.jsonl of the sample world: the text is less true of every wrong option than of the
    right one: all that it states is true of it, and it leaves out no more of it"""


def show_negatives(record: dict[str, Any]) -> None:
    """Print the counts."""
    print("{out}: {questions} {variant} questions".format(**record))
    if record["dropped"]:
        total = record["questions"] + record["dropped"]
        print(f"{record['dropped']} of {total} had fewer than three negatives", file=sys.stderr)
    if record.get("as_true_passed"):
        print(
            f"{record['as_true_passed']} have other wrong options, because their text was as true "
            "of nearer pairs"
        )


def negatives_main(argv: list[str]) -> int:
    run = "retrieval.mining.negatives:write_questions"
    return parse(Negatives, argv, "retrieval negatives", NEGATIVES, run, show_negatives)


@dataclass(frozen=True)
class Neighbours(OfClips):
    """Options of `neighbours`."""

    out: Path = field(metadata=WRITTEN)
    """Parquet file to write: clip, the column of --within, neighbours and similarities (best
    first)"""
    within: str = "step"
    """column of the catalog in which neighbours have equal values; clips without a value are left
    out"""
    k: int = field(default=8, metadata={"type": PositiveInt})
    """neighbours of a clip, fewer if its step has fewer"""
    other_videos: bool = False
    """exclude neighbours from the clip's own video"""
    feature: str = "embedding"
    """array of the view to compare"""


def neighbours_main(argv: list[str]) -> int:
    shown = "{out}: up to {k} neighbours for each of {clips} clips, from the same {within}"
    return parse(
        Neighbours,
        argv,
        "retrieval neighbours",
        NEIGHBOURS,
        "retrieval.mining.neighbours:join",
        shown,
    )


@dataclass(frozen=True)
class Duplicates(OfClips):
    """Options of `duplicates`."""

    threshold: float = field(default=0.98, metadata={"type": ClosedUnitInterval})
    """cosine from which two clips are duplicates; it depends on the encoder: look at some in
    Explore"""
    against: str | None = None
    """column of the catalog, e.g. split: keep only clips that chains of duplicates connect with
    another value of it"""
    by: Literal["exact", "index"] = "exact"
    """exact compares all pairs; index only the nearest that the view's index finds, for many
    millions of clips"""
    out: Path | None = field(default=None, metadata=WRITTEN)
    """file to write the groups to: .parquet, .csv or .jsonl"""
    feature: str | None = None
    """array of the view to compare; by default embedding, or the index's for --by index"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where --by index searches; auto is a GPU if FAISS has one and the index has a million rows"""
    json: bool = False
    """print one JSON object instead of a table"""


def duplicates(options: Duplicates) -> int:
    """Run `duplicates`; returns the exit status."""
    from retrieval.mining.duplicates import duplicates
    from stepdiff_core.io.tables import as_json, check_format, print_table, write_table

    if options.out is not None:
        check_format(options.out)
    store, view = options.opened()
    clips = duplicates(
        store, view, options.threshold, options.against, options.by, options.feature, options.device
    )
    groups = clips["group"].n_unique()
    of = (
        f" that chains of duplicates connect with another {options.against}"
        if options.against
        else ""
    )
    title = (
        f"{groups} {'group' if groups == 1 else 'groups'}{of}, {clips.height} clips with a copy at "
        f"{options.threshold:g} or above in {options.view}"
    )
    if options.out is not None:
        write_table(options.out, clips)
    if options.json:
        print(
            json.dumps({"groups": groups, "threshold": options.threshold, "clips": as_json(clips)})
        )
    elif options.out is not None:
        print(f"{options.out}: {title}")
    else:
        print_table(clips.head(SHOWN), ["group", "clip", "similarity", "copy"], title)
        if clips.height > SHOWN:
            print(
                f"the first {SHOWN} of {clips.height} clips: give --out FILE for all of them",
                file=sys.stderr,
            )
    return 0


def duplicates_main(argv: list[str]) -> int:
    return parse(Duplicates, argv, "retrieval duplicates", DUPLICATES, duplicates)
