"""stepdiff annotate audit data/pairqa.jsonl --store data/features --videos data/kitchen \\
    --out data/audit.html \\
    --hold-out data/kitchen/diffcap_test.jsonl data/kitchen/diffmcq_test.jsonl

Reports the content of a PairQA file: counts, what was dropped at each stage and why (from the
record that stepdiff annotate pairqa writes next to it), balance of answers, lengths, frequent
words, how many n-grams of the test texts the answers have, clips that should not train, and one
page with pairs and their frames.

Guarantees
- a clip that should not train gives exit status 1, and the page is written
- the page is one file, and nothing of the data is read as HTML
- the same seed shows the same pairs
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from stepdiff_core.cli import command
from stepdiff_core.cli.options import WRITTEN, at_least, incomplete, parse
from stepdiff_core.errors import StepDiffError


@dataclass(frozen=True)
class AuditOptions:
    file: str
    """PairQA file to audit"""
    store: str | None = None
    """feature store of the clips, whose catalog has their splits, videos and times"""
    hold_out: tuple[str, ...] = ()
    """published test sets whose clips must not be in the file"""
    hold_out_by: Literal["video", "clip"] = "video"
    """video: every clip of a test clip's video; clip: test clips and clips that overlap one in
    time"""
    videos: str | None = None
    """folder that the catalog's video paths begin in: that of the manifest; null: no pictures"""
    texts: str | None = None
    """Parquet file or folder of step descriptions, shown on the page"""
    kind: str | None = None
    """which of its texts; null if all are of one kind"""
    out: str | None = field(default=None, metadata=WRITTEN)
    """HTML page to write"""
    samples: int = 50
    """pairs on the page"""
    seed: int = 0
    """seed of their choice"""


def run(options: AuditOptions) -> dict[str, Any]:
    at_least(options, samples=0)
    from heads.data.clip_texts import ClipTexts
    from heads.data.hold_out import HoldOut, known_clips
    from stepdiff.annotate.qa.auditing import figures, leaks, overlap, page, read_record, samples
    from stepdiff.annotate.qa.questions import read_questions
    from stepdiff_core.io.files import write_text
    from store import Store

    hold_out = HoldOut(options.hold_out, options.hold_out_by)
    rows = read_questions(options.file)
    clips = None if options.store is None else known_clips(Store.open(options.store))
    if clips is None and (hold_out.files or options.videos):
        raise StepDiffError(
            "--hold-out and --videos need --store, which knows when each clip begins and ends"
        )
    record: dict[str, Any] = {
        "file": options.file,
        "figures": figures(rows),
        "made": read_record(Path(options.file)),
        "leaks": None if clips is None else leaks(rows, clips, hold_out),
        "overlap": overlap(rows, hold_out.files),
    }
    record["failed"] = len(set().union(*(record["leaks"] or {}).values()))
    if options.out is not None:
        texts = (
            {} if options.texts is None else dict(ClipTexts(options.texts, options.kind).items())
        )
        shown = samples(rows, options.samples, options.seed, clips, options.videos, texts)
        write_text(Path(options.out), page(record, shown))
        record["page"] = options.out
    return record


def show(record: dict[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from stepdiff.annotate.qa.questions import kept_words

    figures = record["figures"]
    counts = (
        "{questions:,} questions of {pairs:,} pairs, {in_both_orders:,} in both orders, {clips:,} "
        "clips"
    )
    print(f"{record['file']}: {counts.format(**figures)}")
    table = Table("", "", box=None, show_header=False)
    for answer, count in figures["answers"].items():
        table.add_row(f"answers {answer}", f"{count:,}")
    for name, lengths in figures["words"].items():
        table.add_row(
            f"words of {name}",
            "median {median}, 5 % {5 %}, 95 % {95 %}, most {most}".format(**lengths),
        )
    for name, of_name in figures["n_grams"].items():
        table.add_row(
            f"frequent in {name}",
            "; ".join(f"{gram} ({count:,})" for gram, count in of_name["3"][:4]),
        )
    if record["overlap"]:
        shares = ", ".join(f"{n}: {share:.1%}" for n, share in record["overlap"].items())
        table.add_row("n-grams of the test texts that open answers have", shares)
    for kind, by_type in ({} if record["made"] is None else record["made"]["types"]).items():
        table.add_row(f"type {kind}", kept_words(kind, by_type))
        for reason, count in by_type["dropped"].items():
            table.add_row("", f"{count:,} dropped: {reason}")
    for reason, clips in (record["leaks"] or {"not checked: give --store": []}).items():
        table.add_row("leakage", f"{len(clips):,} clips: {reason}" if record["leaks"] else reason)
    Console(markup=False).print(table)  # the data may contain markup
    if record["failed"]:
        print(
            f"{record['failed']:,} clips should not train: remove their rows, or choose pairs "
            "again with --hold-out"
        )
    if "page" in record:
        print(f"page: {record['page']}")


def main(argv: list[str] | None = None) -> int:
    return parse(
        AuditOptions, argv, "stepdiff.annotate.audit", __doc__, run, show, ("file",), incomplete
    )


if __name__ == "__main__":
    command.run(main)
