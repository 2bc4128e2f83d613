"""Find near-duplicate clips: the same footage in different videos.

python -m retrieval duplicates --store data/features --view efficientnet-lite0 --threshold 0.98
python -m retrieval duplicates --store data/features --view efficientnet-lite0 --against split --out duplicates.parquet

Every clip of a group is a duplicate of the group's first clip, which is listed first. `--against split` keeps only
clips that chains of duplicates connect with another split: leave out the training clips among them, so that no
duplicate of a test clip trains.
"""

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval

from common.cli.options import parse

SHOWN = 50  # rows of the printed table


@dataclass(frozen=True)
class Options:
    """Find groups of clips that show the same footage as the group's first clip, in different videos."""

    store: Path
    """folder of the feature store"""
    view: str
    """feature view of the clips"""
    threshold: float = field(default=0.98, metadata={"type": ClosedUnitInterval})
    """cosine from which two clips are duplicates; it depends on the encoder: look at some with `query --html`"""
    against: str | None = None
    """column of the catalog, e.g. split: keep only clips that chains of duplicates connect with another value of it"""
    by: Literal["exact", "index"] = "exact"
    """exact compares all pairs; index only the nearest that the view's index finds, for many millions of clips"""
    out: Path | None = None
    """file to write the groups to: .parquet, .csv or .jsonl"""
    max_memory: str = "4GB"
    """memory that may be used"""
    feature: str = "embedding"
    """array of the view to compare"""
    json: bool = False
    """print one JSON object instead of a table"""


def run(options: Options) -> int:
    """Run the verb; returns the exit status."""
    from common.io.tables import as_json, check_format, print_table, write_table
    from retrieval.mining.duplicates import duplicates
    from store import Store

    if options.out is not None:
        check_format(options.out)
    store = Store.open(options.store)
    view = store.view("clips", options.view)
    found = duplicates(store, view, options.threshold, options.against, options.by, options.max_memory, options.feature)
    groups = found["group"].n_unique()
    of = f" that chains of duplicates connect with another {options.against}" if options.against else ""
    title = (
        f"{groups} {'group' if groups == 1 else 'groups'}{of}, {found.height} clips with a copy at "
        f"{options.threshold:g} or above in {options.view}"
    )
    if options.out is not None:
        write_table(options.out, found)
    if options.json:
        print(json.dumps({"groups": groups, "threshold": options.threshold, "clips": as_json(found)}))
    elif options.out is not None:
        print(f"{options.out}: {title}")
    else:
        print_table(found.head(SHOWN), ["group", "clip", "similarity", "copy"], title)
        if found.height > SHOWN:
            print(f"the first {SHOWN} of {found.height} clips: give --out FILE for all of them", file=sys.stderr)
    return 0


def main(argv: list[str]) -> int:
    return parse(Options, argv, "retrieval duplicates", __doc__, run)
