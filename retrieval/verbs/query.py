"""Find the clips nearest to a clip, a pair, a text or a file, among all clips or those that a
condition selects.

Beyond 100,000 clips the view needs an index (python -m retrieval build).

python -m retrieval query --store data/features --view efficientnet-lite0 --clip ID -k 10
python -m retrieval query --store data/features --view efficientnet-lite0 --reference ID \\
    --candidate ID
python -m retrieval query --store data/features --view clip --text "whisk the eggs"
python -m retrieval query --store data/features --view efficientnet-lite0 --file pancake.mp4 \\
    --where "split = 'train' AND duration > 3" --out nearest.parquet
"""

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from jsonargparse.typing import PositiveInt

from retrieval.verbs.files import OfClips
from stepdiff_core.cli.options import WRITTEN, parse
from stepdiff_core.errors import StepDiffError

FIRST = ("step", "narration", "caption", "activity", "split")  # first columns of the table
# columns that the table omits: the id implies them
HIDDEN = ("video", "start", "end", "video_bytes", "video_digest")


@dataclass(frozen=True)
class QueryOptions(OfClips):
    """Find the clips nearest to a clip, a pair, a text or a file, by cosine."""

    clip: str | None = None
    """id of the clip whose neighbours are wanted"""
    reference: str | None = None
    """with --candidate: ids of a pair; the query is the average of both embeddings"""
    candidate: str | None = None
    """the pair's second clip"""
    text: str | None = None
    """text whose neighbours are wanted; if its embedding is not in the same view of texts, the
    view's encoder computes it now"""
    file: Path | None = None
    """video or picture whose neighbours are wanted, encoded as the view was"""
    start: float | None = None
    """second at which the clip of --file begins"""
    end: float | None = None
    """second at which it ends"""
    weights: str | None = None
    """weights of the view's encoder for --text and --file: a folder, name or hub id; by default
    those that featurize recorded with the view, or the weights of the encoder's name"""
    encoder: str | None = None
    """the view's encoder for --text and --file, package.module:Class, if it is your own and its
    package is not installed with an entry point"""
    where: str | None = None
    """condition on the catalog as after SQL's WHERE, e.g. "step = 'whisk' AND duration > 4":
    comparisons, AND, OR, NOT, IN, LIKE, BETWEEN, IS NULL, arithmetic, lower, upper and length"""
    feature: str | None = None
    """array of the view to compare; by default the index's, or embedding"""
    k: int = field(default=10, metadata={"type": PositiveInt})
    """number of neighbours"""
    out: Path | None = field(default=None, metadata=WRITTEN)
    """file to write the neighbours to: .parquet, .csv or .jsonl"""
    json: bool = False
    """print one JSON object instead of a table"""


def run(options: QueryOptions) -> int:
    """Run the verb: resolve the query, compute the neighbours, write them; returns the exit
    status."""
    from retrieval.queries.search import compute, resolve
    from stepdiff_core.io.tables import check_format

    if options.out is not None:
        check_format(options.out)
    search = resolve(*options.opened(), source_of(options), options.where, options.feature)
    hits = compute(search, options.k)
    write(search, hits, options)
    return 0


def source_of(options: QueryOptions) -> Callable[..., Any]:
    """Return the function that makes the query.

    Raises StepDiffError unless the options name exactly one source and the others apply to it.
    """
    from retrieval.queries.footage import of_file
    from retrieval.queries.search import of_clips, of_text

    pair = [clip for clip in (options.reference, options.candidate) if clip is not None]
    sources = [options.clip, options.text, options.file, pair or None]
    if sum(one is not None for one in sources) != 1 or len(pair) == 1:
        raise StepDiffError(
            "a query is one of a clip, a pair, a text or a file: give --clip ID, --reference ID "
            "and --candidate ID, --text WORDS or --file VIDEO"
        )
    if options.file is None and (options.start is not None or options.end is not None):
        raise StepDiffError(
            "--start and --end are of the clip in --file: leave them out, or give a file"
        )
    loading: dict[str, Any] = {"weights": options.weights, "encoder": options.encoder}
    for name, value in loading.items():
        if value is not None and options.text is None and options.file is None:
            raise StepDiffError(f"--{name} is for --text and --file: leave it out")
    if options.text is not None:
        return partial(of_text, text=options.text, **loading)
    if options.file is not None:
        return partial(of_file, file=options.file, span=(options.start, options.end), **loading)
    return partial(of_clips, clips=pair or [str(options.clip)])


def write(search: Any, hits: Any, options: QueryOptions) -> None:
    """Write the files of the options, and print the neighbours and how many were missing.

    `search` is a PlannedSearch and `hits` a data frame: the parser would import their types for
    --help.
    """
    from stepdiff_core.io.tables import as_json, print_table, write_table

    title = f"nearest to {search.query.title} in {options.view}"
    eligible = len(search)
    if hits.height < min(options.k, eligible):
        print(
            f"the index found {hits.height} of {options.k}: build one with a higher --min-recall",
            file=sys.stderr,
        )
    elif eligible < options.k:
        selected = f" with {options.where}" if options.where else ""
        print(
            f"-k {options.k}: there are only {eligible} clips to choose from{selected}",
            file=sys.stderr,
        )
    if options.out is not None:
        write_table(options.out, hits)
    if options.json:
        names = ("clip", "reference", "candidate", "text", "file", "where")
        words = {
            name: str(value) for name in names if (value := getattr(options, name)) is not None
        }
        print(json.dumps({**words, "view": options.view, "hits": as_json(hits)}))
    elif options.out is None:
        shown = [name for name in hits.columns if name not in HIDDEN]
        shown.sort(key=lambda name: FIRST.index(name) if name in FIRST else len(FIRST))
        print_table(hits.select(shown), ["rank", "similarity", "clip"], title)
    else:
        print(f"{options.out}: {hits.height} clips {title}")


def main(argv: list[str]) -> int:
    return parse(QueryOptions, argv, "retrieval query", __doc__, run)
