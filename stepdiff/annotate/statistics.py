"""stepdiff annotate statistics data/kitchen/diffcap_test.jsonl data/kitchen/diffrank_test.jsonl \\
    --out data/statistics

Statistics of difference annotations, as supplement S2 reports them: totals, captions by category,
aggregate scores of pairs, scores where a text was written (Fig. S5), and prominent terms of each
category (Fig. S6). FILE holds collected answers (JSON lines, CSV, Label Studio export) or published
rows of DiffCap or DiffRank; several are counted together.

Writes statistics.md, statistics.json, scores.png and words.png.

Scores: 5 = not different, 1 = very different.
"""

import json
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean
from typing import Any

from heads.reporting.grid import Block, Cell, Grid, escape_markdown, to_markdown
from heads.reporting.grid import show as show_tables
from stepdiff.annotate.forms.answers import first_byte, latest, read_collected, show_refused
from stepdiff.annotate.forms.form import DIRECTION, SCORES, Answer
from stepdiff_core.cli import command
from stepdiff_core.cli.options import incomplete, parse
from stepdiff_core.io.files import write_bytes, write_text
from stepdiff_core.io.jsonl import read_objects
from stepdiff_core.tasks.testsets import DiffCap, DiffRank, read_test_set

BINS = 16  # of aggregate scores, from 1 to 5
MOST_DOCUMENTS = 0.25
TERMS = 40  # terms of a category, at most
_TERM = re.compile(r"[^\W\d_]+(?:['’-][^\W\d_]+)*")
FUNCTION_WORDS = frozenset(
    """a about above across after all along also although always am an and another any are around as
    at away back be because been before being below between both but by can compared could did do
    does doing done down during each either else even every for from further get gets getting got
    had has have having he her here hers him his how however i if in instead into is it its itself
    just less like made make makes making many may more most much must my neither no nor not of off
    on once one only onto or other others our out over own per put puts putting rather same she
    should since so some still such than that the their them then there these they this those though
    through to together too toward towards under until up upon us use used uses using very was we
    well were what when where whereas whether which while who whole whose why will with within
    without would yet you your""".split()
)
SHOWN = 12  # terms of a category on the page
DEFINITION = (
    "Terms: by TF-IDF, where one document is one caption; mean over the captions of a category. "
    "Left out are terms in more than 25 % of all captions and function words."
)
Pair = tuple[str, str]


@dataclass
class Collection:
    captions: list[tuple[Pair, str, str]] = field(default_factory=list)  # (pair, category, text)
    scores: list[tuple[Pair, str, int, bool]] = field(default_factory=list)
    """(pair, category, score, whether a text was written with it)"""
    clips: set[str] = field(default_factory=set)
    people: set[str] = field(default_factory=set)
    other_step: int = 0  # targets of DiffRank of another step

    def add_answers(self, answers: Iterable[Answer]) -> None:
        for answer in latest(answers):
            if answer.kind != "work" or answer.rejected is not None:
                continue
            pair = self._pair(answer.reference, answer.candidate)
            self.people.add(answer.annotator)
            for category, difference in answer.differences.items():
                written = bool(difference.text.strip())
                self.scores.append((pair, category, difference.score, written))
                if written:
                    self.captions.append((pair, category, difference.text))

    def add_diffcap(self, rows: Iterable[DiffCap]) -> None:
        for row in rows:
            pair = self._pair(row.reference, row.candidate)
            self.captions += [(pair, row.category, text) for text in row.text if text.strip()]

    def add_diffrank(self, rows: Iterable[DiffRank]) -> None:
        """Add the scores of DiffRank, except for clips of another step."""
        for row in rows:
            for target, score in zip(row.targets, row.scores, strict=True):
                if score == 0:
                    self.other_step += 1
                else:
                    self.scores.append(
                        (self._pair(row.reference, target), row.category, score, False)
                    )

    def _pair(self, reference: str, candidate: str) -> Pair:
        self.clips |= {reference, candidate}
        return (reference, candidate) if reference < candidate else (candidate, reference)


@dataclass(frozen=True)
class Term:
    term: str
    weight: float  # mean TF-IDF over the captions of the category
    captions: int  # captions of the category with the term


@dataclass(frozen=True)
class OfCategory:
    captions: int
    share: float | None  # of all captions
    mean: float | None  # score, of all pairs
    written: dict[str, int]  # score -> how often it was given with a text
    terms: list[Term]


@dataclass(frozen=True)
class Statistics:
    """All figures. Scores: 5 = not different, 1 = very different."""

    sentence: str
    captions: int
    pairs: int
    clips: int
    people: int
    scores: int
    other_step: int
    direction: str
    aggregate: float | None  # mean aggregate score of a pair
    aggregates: list[int]
    """pairs by aggregate score, in BINS equal parts from 1 to 5; a border belongs to the higher
    part"""
    written: int  # scores with a text
    categories: dict[str, OfCategory]


def read_files(
    paths: Sequence[str | Path], refused: Callable[[str], None] | None = None
) -> Collection:
    """Read collected answers and test sets of DiffCap and DiffRank, each recognised by its content,
    as one collection.

    refused: as for `read_collected`. StepDiffError: a file of another form, or a fault in it.
    """
    collection = Collection()
    for path in paths:
        keys = next(read_objects(path))[1].keys() if first_byte(path) == b"{" else ()
        if "targets" in keys:
            collection.add_diffrank(read_test_set("diffrank", path))
        elif "text" in keys:
            collection.add_diffcap(read_test_set("diffcap", path))
        else:
            collection.add_answers(read_collected(path, refused))
    return collection


def statistics_of(collection: Collection) -> Statistics:
    """Return all figures.

    - captions: texts that are not empty, by category
    - aggregate score of a pair: mean over its categories, each the mean over people
    - written scores: scores with a text of the same person; in DiffRank, scores with a text in
      DiffCap
    """
    described = {(pair, category) for pair, category, _ in collection.captions}
    by_person = bool(collection.people)
    written = Counter(
        (category, score)
        for pair, category, score, with_text in collection.scores
        if with_text or (not by_person and (pair, category) in described)
    )
    pairs = {pair for pair, *_ in (*collection.captions, *collection.scores)}
    means = list(aggregates(collection).values())
    weights = terms(collection.captions)
    captions = Counter(category for _, category, _ in collection.captions)
    scores = defaultdict(list)
    for _, category, score, _ in collection.scores:
        scores[category].append(score)
    categories = {
        name: OfCategory(
            captions=captions[name],
            share=captions[name] / len(collection.captions) if collection.captions else None,
            mean=fmean(scores[name]) if scores[name] else None,
            written={str(score): written[name, score] for score in SCORES},
            terms=weights.get(name, []),
        )
        for name in dict.fromkeys([*captions, *scores])
    }
    bins = [0] * BINS
    for mean in means:
        bins[min(int((mean - SCORES[0]) / (SCORES[-1] - SCORES[0]) * BINS), BINS - 1)] += 1
    what = "difference captions" if collection.captions else "scores"
    count, clips = len(collection.captions) or len(collection.scores), len(collection.clips)
    return Statistics(
        sentence=(
            f"{count:,} {what} across {len(pairs):,} video clip pairs involving {clips:,} unique "
            "video clips"
        ),
        captions=len(collection.captions),
        pairs=len(pairs),
        clips=clips,
        people=len(collection.people),
        scores=len(collection.scores),
        other_step=collection.other_step,
        direction=DIRECTION,
        aggregate=fmean(means) if means else None,
        aggregates=bins,
        written=written.total(),
        categories=categories,
    )


def aggregates(collection: Collection) -> dict[Pair, float]:
    """Return the aggregate score of each pair: mean over its categories, each the mean over
    people."""
    scores: dict[Pair, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for pair, category, score, _ in collection.scores:
        scores[pair][category].append(score)
    return {pair: fmean(map(fmean, by_category.values())) for pair, by_category in scores.items()}


def words(text: str) -> list[str]:
    """Return the words of a text that may be terms, in lower case."""
    return [
        word for word in _TERM.findall(text.lower()) if len(word) > 1 and word not in FUNCTION_WORDS
    ]


def terms(captions: Sequence[tuple[Any, str, str]], most: int = TERMS) -> dict[str, list[Term]]:
    """Return the terms of each category with the highest mean TF-IDF over its captions, the highest
    first.

    One document is one caption: the count of a term times ln((1 + captions) / (1 + captions with
    the term)) + 1, each caption scaled to length 1. Left out are terms in more than 25 % of all
    captions (as in the paper), function words. captions: (anything, category, text).
    """
    counted = [(category, Counter(words(text))) for _, category, text in captions]
    documents = Counter(term for _, counts in counted for term in counts)
    inverse = {
        term: math.log((1 + len(counted)) / (1 + count)) + 1
        for term, count in documents.items()
        if count <= MOST_DOCUMENTS * len(counted)
    }
    sums: dict[str, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    having: dict[str, Counter[str]] = defaultdict(Counter)
    sizes = Counter(category for category, _ in counted)
    for category, counts in counted:
        weights = {term: count * inverse[term] for term, count in counts.items() if term in inverse}
        length = math.hypot(*weights.values())
        for term, weight in weights.items():
            sums[category][term] += weight / length
            having[category][term] += 1
    prominent = {}
    for category, weighted in sums.items():
        ordered = sorted(weighted.items(), key=lambda item: (-item[1], item[0]))[:most]
        prominent[category] = [
            Term(term, s / sizes[category], having[category][term]) for term, s in ordered
        ]
    return prominent


@dataclass(frozen=True)
class StatisticsOptions:
    files: tuple[str, ...]
    """collected answers, or DiffCap and DiffRank files"""
    out: str = field(
        metadata={"written": ("/statistics.md", "/statistics.json", "/scores.png", "/words.png")}
    )
    """folder to write to"""


def run(options: StatisticsOptions) -> dict[str, Any]:
    from stepdiff.annotate.statistics_pictures import clouds_figure, scores_figure

    refused: list[str] = []
    statistics = statistics_of(read_files(options.files, refused.append))
    out = Path(options.out)
    record: dict[str, Any] = {"files": list(options.files), **asdict(statistics), "pictures": []}
    for name, data in {
        "scores.png": scores_figure(statistics),
        "words.png": clouds_figure(statistics),
    }.items():
        if data is None:
            (out / name).unlink(missing_ok=True)  # of an earlier run on other files
        else:
            write_bytes(out / name, data)
            record["pictures"].append(name)
    write_text(out / "statistics.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
    write_text(out / "statistics.md", _page(record))
    return {"out": options.out, **record, "failed": refused}


def _page(record: dict[str, Any]) -> str:
    lines = [
        "# Difference annotations",
        "",
        f"{escape_markdown(record['sentence'])}.",
        "",
        *_facts(record),
    ]
    titles = {
        "scores.png": "Scores and captions (Fig. S5)",
        "words.png": "Prominent terms (Fig. S6)",
    }
    for name, title in titles.items():
        missing = f"{title}: no picture, because the files have no data for it."
        lines += [f"![{title}]({name})" if name in record["pictures"] else missing, ""]
    return "\n".join(lines) + "\n" + "".join(map(to_markdown, _grids(record)))


def _facts(record: dict[str, Any]) -> list[str]:
    """Return further facts as lines of a list, and an empty line."""
    facts = [f"Scores: {record['direction']}."]
    if record["aggregate"] is not None:
        facts.append(
            f"Aggregate score of a pair, mean over its categories: {record['aggregate']:.2f} on "
            "average."
        )
    if record["people"]:
        facts.append(f"{record['people']:,} people.")
    if record["other_step"]:
        facts.append(
            f"{record['other_step']:,} targets of another step have score 0 and are left out."
        )
    return [*(f"- {fact}" for fact in facts), ""]


def _grids(record: dict[str, Any]) -> list[Grid]:
    """Return the tables of categories and of terms."""

    def row(name: str, of: dict[str, Any]) -> tuple[str, list[Cell | None]]:
        written = [
            Cell(f"{count:,}") if sum(of["written"].values()) else None
            for count in of["written"].values()
        ]
        share = None if of["share"] is None else Cell(f"{of['share']:.1%}")
        mean = None if of["mean"] is None else Cell(f"{of['mean']:.2f}")
        return name, [Cell(f"{of['captions']:,}"), share, mean, *written]

    categories = record["categories"]
    scores = next(iter(categories.values()))["written"] if categories else {}
    columns = [
        ("", "captions"),
        ("", "share"),
        ("", "mean score"),
        *(("with a text", score) for score in scores),
    ]
    rows = [row(name, of) for name, of in categories.items()]
    grids = [Grid("Categories", "category", columns, [Block("", rows)], [])]
    terms: list[tuple[str, list[Cell | None]]] = [
        (
            name,
            [
                Cell(
                    ", ".join(
                        f"{term['term']} ({term['captions']:,})" for term in of["terms"][:SHOWN]
                    )
                )
            ],
        )
        for name, of in categories.items()
        if of["terms"]
    ]
    if terms:
        title = "Prominent terms, and how many captions have them"
        grids.append(Grid(title, "category", [("", "terms")], [Block("", terms)], [DEFINITION]))
    return grids


def show(record: dict[str, Any]) -> None:
    show_refused(record)
    print(f"{record['sentence']}.")
    print("\n".join(line.removeprefix("- ") for line in _facts(record)[:-1]))
    show_tables(_grids(record))
    print(
        f"{record['out']}: statistics.md, statistics.json"
        + "".join(f", {name}" for name in record["pictures"])
    )


def main(argv: list[str] | None = None) -> int:
    return parse(
        StatisticsOptions,
        argv,
        "stepdiff.annotate.statistics",
        __doc__,
        run,
        show,
        ("files",),
        incomplete,
    )


if __name__ == "__main__":
    command.run(main)
