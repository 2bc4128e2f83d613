"""python -m annotate.audit data/pairqa.jsonl --store data/features --videos data/kitchen --out data/audit.html \\
    --hold-out data/kitchen/diffcap_test.jsonl data/kitchen/diffmcq_test.jsonl data/kitchen/diffrank_test.jsonl

Says what a PairQA file holds: counts and what was dropped at each stage and why (out of the record that annotate.pairqa
leaves beside it), balance of answers, lengths, frequent words, clips that should not train, and one page with pairs to
read beside their frames.

Guarantees
- a clip that should not train makes the exit status 1; the page is written all the same
- the page is one file; the same seed shows the same pairs
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import polars as pl

from annotate.page.contact_sheets import contact_sheets
from annotate.page.figures import figures, leaks
from annotate.page.page import Sample, page
from annotate.qa.job import Question, read_questions
from annotate.sources.held_out import given
from common.cli import command
from common.cli.options import incomplete, parse
from common.errors import StepDiffError
from common.io.files import write_text
from common.streams import generator
from heads.data.clip_texts import ClipTexts
from heads.data.hold_out import known_clips
from store import Store


@dataclass(frozen=True)
class AuditOptions:
    file: str
    """PairQA file to look into"""
    store: str | None = None
    """feature store that knows the clips: their splits, and where to find them"""
    hold_out: tuple[str, ...] = ()
    """published test sets whose clips must not be there"""
    hold_out_by: Literal["video", "clip"] = "video"
    """video: every clip of a test clip's video; clip: test clips and clips that overlap one in time"""
    videos: str | None = None
    """folder from which the store's catalog names videos: that of the manifest; null: no pictures"""
    texts: str | None = None
    """Parquet file or folder of step descriptions, to show them"""
    kind: str | None = None
    """which of its texts; null where all are of one kind"""
    out: str | None = None
    """HTML page to write"""
    samples: int = 50
    """pairs on the page"""
    seed: int = 0
    """seed that draws them"""
    test_sets: tuple[str, ...] = ()
    """old name of hold_out: files with commas between them"""


def run(options: AuditOptions) -> dict[str, Any]:
    hold_out = given(options.hold_out, options.hold_out_by, options.test_sets)
    rows = read_questions(options.file)
    clips = None if options.store is None else known_clips(Store.open(options.store))
    if clips is None and (hold_out.files or options.videos):
        raise StepDiffError("--hold-out and --videos need --store, which knows when each clip begins and ends")
    record: dict[str, Any] = {
        "file": options.file,
        "figures": figures(rows),
        "made": _made(Path(options.file)),
        "leaks": None if clips is None else leaks(rows, clips, hold_out),
    }
    record["failed"] = len(set().union(*(record["leaks"] or {}).values()))
    if options.out is not None:
        drawn = _drawn(rows, options.samples, options.seed)
        write_text(Path(options.out), page(record, _samples(drawn, clips, options)))
        record["page"] = options.out
    return record


def _made(path: Path) -> dict[str, Any] | None:
    """What annotate.pairqa says of the file, where it says anything."""
    record = path.with_suffix(".record.json")
    if not record.exists():
        return None
    try:
        made = json.loads(record.read_text(encoding="utf-8"))
        found = {name: made[name] for name in ("pairs", "undescribed", "types", "examples", "provenance")}
        _check_made(found)
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise StepDiffError(
            f"{record}: not a record of annotate.pairqa ({error}); run that again, or remove it"
        ) from error


def _check_made(found: dict[str, Any]) -> None:
    """TypeError where a record has counts that are no whole numbers, or examples that are no texts."""
    counts = [found["pairs"], found["undescribed"]]
    for told in found["types"].values():
        counts += [told["written"], told["kept"], *told["dropped"].values()]
    texts = [text for some in found["examples"].values() for text in some]
    if not all(type(count) is int for count in counts) or not all(isinstance(text, str) for text in texts):
        raise TypeError("its counts are whole numbers, its examples texts")


def _drawn(rows: list[Question], count: int, seed: int) -> dict[tuple[str, str], list[Question]]:
    """The questions of `count` pairs, in the order of one of their two."""
    pairs: dict[frozenset[str], dict[tuple[str, str], list[Question]]] = {}
    for row in rows:
        of_pair = pairs.setdefault(frozenset((row.reference, row.candidate)), {})
        of_pair.setdefault((row.reference, row.candidate), []).append(row)
    rng = generator(seed, "audited pairs")
    chosen = [list(pairs.values())[place] for place in sorted(rng.permutation(len(pairs))[:count])]
    return dict(list(orders.items())[rng.integers(len(orders))] for orders in chosen)


def _samples(
    drawn: dict[tuple[str, str], list[Question]], clips: pl.DataFrame | None, options: AuditOptions
) -> list[Sample]:
    names = {clip for pair in drawn for clip in pair}
    sheets: dict[str, bytes | str] = {}
    if clips is not None and options.videos is not None:
        shown = clips.filter(
            pl.col("key").is_in(names), pl.all_horizontal(pl.col("video", "start", "end").is_not_null())
        )
        sheets = contact_sheets(shown, Path(options.videos))
    texts = {} if options.texts is None else dict(ClipTexts(options.texts, options.kind).items())
    missing = "no picture: give --store and --videos" if not sheets else "the store does not know this clip"
    return [
        Sample(
            *pair,
            questions,
            (sheets.get(pair[0], missing), sheets.get(pair[1], missing)),
            (texts.get(pair[0], ""), texts.get(pair[1], "")),
        )
        for pair, questions in drawn.items()
    ]


def show(record: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from annotate.qa.composing import kept_words

    found = record["figures"]
    print("{file}: ".format(**record), end="")
    print(
        "{questions:,} questions of {pairs:,} pairs, {in_both_orders:,} in both orders, {clips:,} clips".format(**found)
    )
    table = Table("", "", box=None, show_header=False)
    for answer, count in found["answers"].items():
        table.add_row(f"answers {answer}", f"{count:,}")
    for name, told in found["words"].items():
        table.add_row(f"words of {name}", "median {median}, 5 % {5 %}, 95 % {95 %}, most {most}".format(**told))
    for name, of_name in found["n_grams"].items():
        table.add_row(f"frequent in {name}", "; ".join(f"{gram} ({count:,})" for gram, count in of_name["3"][:4]))
    for kind, told in ({} if record["made"] is None else record["made"]["types"]).items():
        table.add_row(f"type {kind}", kept_words(kind, told))
        for reason, count in told["dropped"].items():
            table.add_row("", f"{count:,} dropped: {reason}")
    for reason, clips in (record["leaks"] or {"leakage was not checked: give --store": []}).items():
        table.add_row("leakage", f"{len(clips):,} clips: {reason}" if record["leaks"] else reason)
    Console(markup=False).print(table)  # a word of the data is no markup
    if record["failed"]:
        print(f"{record['failed']:,} clips should not train: remove their rows, or choose pairs again with --hold-out")
    if "page" in record:
        print(f"page: {record['page']}")


def main(argv: list[str] | None = None) -> int:
    return parse(AuditOptions, argv, "annotate.audit", __doc__, run, show, ("file",), incomplete)


if __name__ == "__main__":
    command.run(main, "what is answered stays, run the same command for the rest")
