"""Compare two videos: what differs by category, how alike they are, and what is uncertain.

stepdiff compare mine.mp4 expert.mp4
stepdiff compare mine.mp4@12-20 expert.mp4@3:05-3:15 --ask "What mistake did I make?"
stepdiff compare A.mp4 B.mp4 --model Qwen/Qwen3-VL-2B-Instruct    a model of transformers
stepdiff compare A.mp4 B.mp4 --html report.html                   one file to send, clips inside
stepdiff compare A.mp4 B.mp4 C.mp4 --rank                         which is most like A, by category

Features of a file are computed once and kept, so a second question is answered without reading the
video again.
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING, Any

from heads.ask import MOST_TOKENS
from stepdiff_core.cli import command
from stepdiff_core.cli.options import WRITTEN, at_least, parse
from stepdiff_core.errors import StepDiffError
from stepdiff_core.progress import stages

if TYPE_CHECKING:
    from stepdiff.comparison.clips import FileClip
    from stepdiff.comparison.comparing import Comparison, Ranking


@dataclass(frozen=True)
class CompareOptions:
    videos: tuple[str, ...]
    """Video 1 and Video 2: FILE, or FILE@START-END with seconds, M:SS or H:MM:SS; with --rank
    three"""
    ask: str = ""
    """a question about both videos"""
    model: str | None = None
    """a folder of python -m heads.train or heads.words, word-evidence, or a video language model of
    transformers: a folder or hub id; null: runs/stepdiff, else runs/words"""
    encoder: str | None = None
    """encoder of a head's features, package.module:Class, if it is your own and its package is not
    installed with an entry point"""
    html: str | None = field(default=None, metadata=WRITTEN)
    """page to write, with the clips inside: one file that can be sent"""
    rank: bool = False
    """say which of the others is most like the first video, by category"""
    store: str | None = None
    """feature store to keep features in, a folder or a URL as of s3://; null: features in the cache
    folder, $STEPDIFF_CACHE or ~/.cache/stepdiff"""
    max_tokens: int = MOST_TOKENS
    """longest answer, in tokens"""
    device: str = "auto"
    """auto, cpu, cuda"""
    json: bool = False
    """print one JSON object and nothing else"""


def run(options: CompareOptions) -> int:
    at_least(options, max_tokens=1)
    if options.rank and (options.ask or options.html):
        raise StepDiffError(
            "--rank compares three videos and writes no answer: leave --ask and --html out"
        )
    if not options.rank and len(options.videos) != 2:
        more = ", or three with --rank" if len(options.videos) == 3 else ""
        raise StepDiffError(
            f"give two videos, FILE or FILE@START-END{more}; {len(options.videos)} given"
        )
    _check(options)
    with stages() as stage:
        stage("loading libraries")
        from heads.ask import Streaming
        from stepdiff.comparison.comparing import compare, rank

    if options.rank:
        how = {name: getattr(options, name) for name in ("model", "store", "device", "encoder")}
        ranking = rank(*options.videos, **how)
        if options.json:
            order = {category: ranking.order(category) for category in ranking.alike}
            values = {
                "model": ranking.model,
                "alike": ranking.alike,
                "order": order,
                "cosines": ranking.cosines,
            }
            values |= {
                "overall": ranking.order(),
                "notes": list(ranking.notes),
                "knows": ranking.knows,
            }
            first = {"unlike": ranking.unlike, "clips": list(map(clip_record, ranking.clips))}
            print(json.dumps(first | values, allow_nan=False))
        else:
            show_ranking(ranking)
        return 0
    streaming = Streaming(options.ask) if options.ask and not options.json else None
    reference, candidate = options.videos
    how = {
        name: getattr(options, name)
        for name in ("ask", "model", "store", "max_tokens", "device", "encoder")
    }
    comparison = compare(
        reference, candidate, **how, say=streaming, answered=streaming and streaming.end
    )
    if streaming is not None and not comparison.unlike:
        print()
    print(json.dumps(record(comparison), allow_nan=False)) if options.json else show(comparison)
    if options.html is not None:
        from stepdiff.comparison.report import write_report

        with stages() as stage:
            stage("cutting the clips for the page")
            write_report(Path(options.html), comparison)
        page = Path(options.html)
        print(f"wrote {page}; a browser opens {page.absolute().as_uri()}", file=sys.stderr)
    return 0


def _check(options: CompareOptions) -> None:
    """Raise StepDiffError for videos, a model or a page that cannot be used, before libraries are
    loaded for them."""
    from featurize.video.cut import MOST_SECONDS
    from stepdiff.comparison.clips import read_clip
    from stepdiff.comparison.naming import model_name

    clips = list(map(read_clip, options.videos))
    model_name(options.model)
    if options.html is None:
        return
    if not Path(options.html).absolute().parent.is_dir():
        raise StepDiffError(f"--html {options.html}: its folder does not exist: create it")
    for clip in clips:
        if clip.seconds > MOST_SECONDS:
            raise StepDiffError(
                f"{clip} is too long for --html, which takes clips of at most {MOST_SECONDS:g} s: "
                "give a part, FILE@START-END"
            )


def clip_record(clip: "FileClip") -> dict[str, Any]:
    """Return a clip for JSON."""
    return {
        "file": str(clip.path),
        "start": clip.start,
        "end": clip.end,
        "title": str(clip),
        "clip": clip.key,
    }


def record(comparison: "Comparison") -> dict[str, Any]:
    """Return a comparison for JSON."""
    from heads.llm.model import CutOff

    values = {
        name: value for name, value in asdict(comparison).items() if name not in ("clips", "unlike")
    }
    values["differences"] = [
        asdict(each) | {"verdict": each.verdict} for each in comparison.differences
    ]
    first = {"unlike": comparison.unlike, "clips": list(map(clip_record, comparison.clips))}
    return first | values | {"cut": isinstance(comparison.answer, CutOff)}


def _head(comparison: "Comparison | Ranking") -> None:
    if comparison.unlike:
        print(f"{fill(comparison.unlike, 80)}\n")
    for number, clip in enumerate(comparison.clips, start=1):
        print(f"Video {number}  {clip}")
    print(f"Model    {comparison.model}")
    if comparison.knows:
        print(fill(f"Knows    {comparison.knows}", 80, subsequent_indent=" " * 9))
    for note in comparison.notes:
        print(f"Note     {note}")
    print()


def _table(rows: list[tuple[str, ...]]) -> None:
    if not rows:  # of a head without categories
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*[""] * len(rows[0]), box=None, pad_edge=False, show_header=False)
    for row in rows:
        table.add_row(*map(Text, row))
    Console(highlight=False).print(table)


def show(comparison: "Comparison") -> None:
    """Print what differs, how alike the clips are, and the moments that show it."""
    from stepdiff.comparison.clips import clock

    _head(comparison)
    if comparison.unlike:
        if comparison.question:
            print(f"Q: {comparison.question}\nA: {comparison.answer}\n")
        print("What holds without a head")
        print(f"  {'cosine of the whole clips':<28} {comparison.cosine:.2f} (1: equal)")
        for place, (one, two) in enumerate(comparison.together):
            print(f"  {'' if place else 'most alike':<28} {clock(one)} and {clock(two)}")
    else:
        texts = [
            f"{each.text}  ({each.doubt})" if each.doubt else each.text
            for each in comparison.differences
        ]
        rows = zip(comparison.differences, texts, strict=True)
        _table([(each.category, each.verdict, text) for each, text in rows])
    for video, spans in enumerate(comparison.only, start=1):
        times = ", ".join(f"{clock(start)} to {clock(end)}" for start, end in spans)
        words = [each for each in comparison.moments if each.video == video]
        if words or spans:
            print(f"\nMore in Video {video} than in Video {3 - video}, and when")
        for word in words:
            print(f"  {word.term:<28} {', '.join(map(clock, word.seconds))}".rstrip())
        if spans:
            print(f"  {f'a part unlike Video {3 - video}':<28} {times}")
    if not comparison.unlike:
        print("\nThe numbers behind these words: --json, or the page of --html")


def show_ranking(ranking: "Ranking") -> None:
    """Print which clip is most like the first, as a whole and by category."""
    from stepdiff_core.tasks.declining import verdict

    _head(ranking)
    print(f"Most like Video 1 by the features of the whole clips: {_first(ranking)}\n")
    numbers = range(2, len(ranking.clips) + 1)
    rows: list[tuple[str, ...]] = [
        ("", *(f"Video {number}" for number in numbers), "most like Video 1")
    ]
    rows += [
        (name, *map(verdict, values), _first(ranking, name))
        for name, values in ranking.alike.items()
    ]
    if ranking.alike:
        _table(rows)
    print("\nThe numbers behind these words: --json")


def _first(ranking: "Ranking", category: str = "") -> str:
    """Return which clips are most like the first: two if they are equally like it."""
    values, order = ranking.values(category), ranking.order(category)
    return " and ".join(f"Video {number}" for number in order if values[number - 2] == max(values))


def main(argv: list[str] | None = None) -> int:
    return parse(CompareOptions, argv, "stepdiff.compare", __doc__, run, positional=("videos",))


if __name__ == "__main__":
    command.run(main, "features that were computed are kept; run the same command again")
