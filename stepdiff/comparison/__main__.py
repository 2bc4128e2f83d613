"""Compare two videos: what differs by category, how alike they are, and what is uncertain.

stepdiff compare mine.mp4 expert.mp4
stepdiff compare mine.mp4@12-20 expert.mp4@3:05-3:15 --ask "What mistake did I make?"
stepdiff compare A.mp4 B.mp4 --model Qwen/Qwen3-VL-2B-Instruct    a video language model of transformers
stepdiff compare A.mp4 B.mp4 --html report.html                   one file to send, clips inside
stepdiff compare A.mp4 B.mp4 C.mp4 --rank                         which is most like A, by category

Features of a file are computed once and kept, so a second question is answered without reading the video again.
"""

import json
import sys
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepdiff.common.cli import command
from stepdiff.common.cli.options import WRITTEN, at_least, parse
from stepdiff.common.errors import StepDiffError

if TYPE_CHECKING:
    from stepdiff.comparison.clips import FileClip
    from stepdiff.comparison.comparing import Comparison, Ranking


@dataclass(frozen=True)
class CompareOptions:
    videos: tuple[str, ...]
    """Video 1 and Video 2: FILE, or FILE@START-END with seconds, M:SS or H:MM:SS; with --rank three"""
    ask: str = ""
    """a question about both videos"""
    model: str | None = None
    """a folder of python -m heads.train or heads.words, word-evidence, or a video language model of transformers: a
    folder or hub id; null: runs/stepdiff, else runs/words"""
    encoder: str | None = None
    """encoder of a head's features, package.module:Class, if it is your own and its package is not installed with an
    entry point"""
    html: str | None = field(default=None, metadata=WRITTEN)
    """page to write, with the clips inside: one file that can be sent"""
    rank: bool = False
    """say which of the others is most like the first video, by category"""
    store: str | None = None
    """feature store to keep features in, a folder or a URL as of s3://; null: features in the cache folder,
    $STEPDIFF_CACHE or ~/.cache/stepdiff"""
    max_tokens: int = 64
    """longest answer, in tokens"""
    device: str = "auto"
    """auto, cpu, cuda"""
    json: bool = False
    """print one JSON object and nothing else"""


def run(options: CompareOptions) -> int:
    at_least(options, max_tokens=1)
    if options.rank and (options.ask or options.html):
        raise StepDiffError("--rank compares three videos and writes no answer: leave --ask and --html out")
    if not options.rank and len(options.videos) != 2:
        more = ", or three with --rank" if len(options.videos) == 3 else ""
        raise StepDiffError(f"give two videos, FILE or FILE@START-END{more}; {len(options.videos)} given")
    if options.html is not None:
        _check_page(options.html, options.videos)
    from heads.ask import Streaming
    from stepdiff.comparison.comparing import compare, rank

    if options.rank:
        how = {name: getattr(options, name) for name in ("model", "store", "device", "encoder")}
        ranking = rank(*options.videos, **how)
        return _print(options, ranking_record(ranking), lambda: show_ranking(ranking))
    streaming = Streaming(options.ask) if options.ask and not options.json else None
    reference, candidate = options.videos
    how = {name: getattr(options, name) for name in ("ask", "model", "store", "max_tokens", "device", "encoder")}
    comparison = compare(reference, candidate, **how, say=streaming)
    if streaming is not None:
        streaming.end(comparison.answer)
        print()
    _print(options, record(comparison), lambda: show(comparison))
    if options.html is not None:
        from stepdiff.comparison.report import write_report

        write_report(Path(options.html), comparison)
        print(f"wrote {options.html}", file=sys.stderr)
    return 0


def _check_page(html: str, videos: tuple[str, ...]) -> None:
    """Raise StepDiffError for a page that cannot be written, before anything is computed for it."""
    from featurize.video.cut import MOST_SECONDS
    from stepdiff.comparison.clips import read_clip

    if not Path(html).absolute().parent.is_dir():
        raise StepDiffError(f"--html {html}: its folder does not exist: create it")
    for clip in map(read_clip, videos):
        if clip.seconds > MOST_SECONDS:
            raise StepDiffError(
                f"{clip} is too long for --html, which takes clips of at most {MOST_SECONDS:g} s: give a part, "
                "FILE@START-END"
            )


def _print(options: CompareOptions, values: dict[str, Any], show: Any) -> int:
    if options.json:
        print(json.dumps(values, allow_nan=False))
    else:
        show()
    return 0


def clip_record(clip: "FileClip") -> dict[str, Any]:
    """Return a clip for JSON."""
    return {"file": str(clip.path), "start": clip.start, "end": clip.end, "clip": clip.key}


def record(comparison: "Comparison") -> dict[str, Any]:
    """Return a comparison for JSON."""
    from heads.llm.model import CutOff

    values = {name: value for name, value in asdict(comparison).items() if name != "clips"}
    return {"clips": list(map(clip_record, comparison.clips))} | values | {"cut": isinstance(comparison.answer, CutOff)}


def ranking_record(ranking: "Ranking") -> dict[str, Any]:
    """Return a ranking for JSON."""
    order = {category: ranking.order(category) for category in ranking.alike}
    values = {"model": ranking.model, "alike": ranking.alike, "order": order, "cosines": ranking.cosines}
    return {"clips": list(map(clip_record, ranking.clips)), **values, "notes": list(ranking.notes)}


def _head(clips: "tuple[FileClip, ...]", model: str, notes: tuple[str, ...]) -> None:
    for number, clip in enumerate(clips, start=1):
        print(f"Video {number}  {clip}")
    print(f"Model    {model}")
    for note in notes:
        print(f"Note     {note}")
    print()


def show(comparison: "Comparison") -> None:
    """Print what differs, how alike the clips are, and the moments that show it."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    _head(comparison.clips, comparison.model, comparison.notes)
    table = Table("", "", "", "", box=None, pad_edge=False, show_header=False)
    for each in comparison.differences:
        said = Text(each.text)
        if each.doubt:
            said.append(f"  ({each.doubt})", "dim")
        table.add_row(each.category, "alike" if each.alike > 0 else "different", f"{each.alike:+.1f}", said)
    console = Console(highlight=False, width=None if sys.stdout.isatty() else 160)
    console.print(table)
    print(
        f"\nThe number is above 0 where the model finds the videos alike. Cosine of the whole clips: "
        f"{comparison.cosine:.2f}"
    )
    for video, spans in enumerate(comparison.only, start=1):
        if spans:
            shown = ", ".join(f"{start:.1f} to {end:.1f} s" for start, end in spans)
            print(f"\nVideo {video}: {shown} looks like nothing in the other video")
    for video in (1, 2):
        words = [each for each in comparison.moments if each.video == video]
        if words:
            print(f"\nVideo {video}: words with more evidence here than in the other video, and when")
        for word in words:
            at = ", ".join(f"{second:.1f} s" for second in word.seconds)
            print(f"  {word.term:<28} {word.evidence:+.1f} against {word.other:+.1f}" + (f"   {at}" if at else ""))


def show_ranking(ranking: "Ranking") -> None:
    """Print which clip is most like the first, by category."""
    _head(ranking.clips, ranking.model, ranking.notes)
    print("most like Video 1, by category (log-odds that they are alike)")
    for category, values in ranking.alike.items():
        order = [f"Video {number} ({values[number - 2]:+.1f})" for number in ranking.order(category)]
        print(f"  {category:<16} {', '.join(order)}")
    cosines = [f"Video {number} ({value:.2f})" for number, value in enumerate(ranking.cosines, start=2)]
    print(f"  {'whole clips':<16} {', '.join(cosines)}  (cosine)")


def main(argv: list[str] | None = None) -> int:
    return parse(CompareOptions, argv, "stepdiff.compare", __doc__, run, positional=("videos",))


if __name__ == "__main__":
    command.run(main, "features that were computed are kept; run the same command again")
