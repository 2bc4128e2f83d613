"""stepdiff annotate agreement data/people/answers.jsonl --task data/people/task.yaml \\
    --out data/people/agreement.md

How far people agree about the differences of clips: two of three, Cohen's kappa, Krippendorff's
alpha, the distance of different scores, and each person's time, distance from the others and
agreement on gold pairs. FILE holds collected answers as JSON lines or CSV, a Label Studio export,
or user_inputs.json of ConViS-Bench.

Scores: 5 = not different, 1 = very different.
"""

import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import fmean, median
from typing import Any

import numpy as np
from jaxtyping import Float, Float64, Int64

from heads.reporting.grid import Block, Cell, Grid, number, to_markdown
from heads.reporting.grid import show as show_tables
from stepdiff.annotate.forms.answers import latest, read_collected, show_refused
from stepdiff.annotate.forms.form import (
    DIRECTION,
    HIGHEST,
    LOWEST,
    AnnotationTask,
    Answer,
    read_task,
)
from stepdiff_core.cli import command
from stepdiff_core.cli.options import WRITTEN, incomplete, parse
from stepdiff_core.io.files import write_text
from stepdiff_core.tasks.agreement import alpha

# Shape legend: R ratings; C couples, which are two ratings of one item by two people; U items; L
# levels of the score; P pairs of people.


@dataclass(frozen=True)
class Ratings:
    item: Int64[np.ndarray, " R"]
    person: Int64[np.ndarray, " R"]
    score: Int64[np.ndarray, " R"]  # from 0 to levels - 1
    levels: int

    def of(self, chosen: np.ndarray) -> "Ratings":
        return Ratings(self.item[chosen], self.person[chosen], self.score[chosen], self.levels)


@dataclass(frozen=True)
class AgreementFigures:
    """Agreement of people about items that at least two of them rated. None: not defined."""

    items: int  # items with at least two ratings
    ratings: int  # ratings of these items
    two_of_three: float | None
    """share of all triples of people who rated one item in which at least two gave the same
    score"""
    # share of all pairs of people who rated one item that gave the same score
    pairwise: float | None
    kappa: float | None  # Cohen's kappa, mean over pairs of people who share items
    kappa_weighted: float | None
    """the same, weighted by how many items a pair of people shares: with few shared items kappa is
    noise"""
    # pairs of people with a kappa: it is not defined where both always give one and the same score
    kappa_pairs: int
    distance: float | None  # mean distance of two different scores of one item
    nominal: float | None  # Krippendorff's alpha
    ordinal: float | None
    interval: float | None


@dataclass(frozen=True)
class PersonFigures:
    annotator: str
    answers: int  # pairs of work, also rejected ones
    rejected: int
    seconds: float | None  # median for a pair
    distance: float | None  # mean distance of a score from the median of the others' scores
    shared: int  # scores of which that is the mean: others scored the item too
    scored: int  # pairs with scores in at least two categories
    equal: int  # those of them with the same score in all categories
    gold_scores: int  # scores of gold pairs
    gold: float | None  # share of them within the tolerance of the known score


@dataclass(frozen=True)
class Agreement:
    """All figures about a collection. Scores: 5 = not different, 1 = very different."""

    pairs: int
    people: int
    answers: int
    """answers of work that count, also rejected pairs"""
    rejected: int
    replaced: int
    """earlier answers of a person about the same pair, which do not count"""
    scores: str
    """direction of the scores"""
    overall: AgreementFigures
    """over all pairs in all categories"""
    categories: dict[str, AgreementFigures]
    rejections: AgreementFigures
    """of accepting or rejecting a pair: an item is a pair"""
    annotators: list[PersonFigures]
    """the most active first"""


def agreement(answers: Iterable[Answer], task: AnnotationTask | None = None) -> Agreement:
    """Return the agreement in a collection; `task` has the known scores of gold pairs.

    An item is a pair of clips in a category. Only work counts, without rejected pairs, and of
    several answers of one person about a pair only the last one. A person is compared with the
    median of the others.
    """
    collected = list(answers)
    counted = latest(collected)
    work = [answer for answer in counted if answer.kind == "work"]
    people = {
        name: number
        for number, name in enumerate(dict.fromkeys(answer.annotator for answer in work))
    }
    pairs = {
        name: number for number, name in enumerate(dict.fromkeys(answer.pair for answer in work))
    }
    categories = list(dict.fromkeys(name for answer in work for name in answer.differences))
    scored = [answer for answer in work if answer.rejected is None]
    rows = [
        (
            pairs[a.pair] * len(categories) + number,
            people[a.annotator],
            a.differences[name].score - LOWEST,
            number,
        )
        for a in scored
        for number, name in enumerate(categories)
        if name in a.differences
    ]
    item, person, score, category = np.array(rows, np.int64).reshape(-1, 4).T
    ratings = Ratings(item, person, score, HIGHEST - LOWEST + 1)
    both = [(pairs[a.pair], people[a.annotator], int(a.rejected is not None)) for a in work]
    pair, who, rejected = np.array(both, np.int64).reshape(-1, 3).T
    return Agreement(
        pairs=len(pairs),
        people=len(people),
        answers=len(work),
        rejected=len(work) - len(scored),
        replaced=sum(answer.kind == "work" for answer in collected) - len(work),
        scores=DIRECTION,
        overall=figures(ratings),
        categories={
            name: figures(ratings.of(category == number)) for number, name in enumerate(categories)
        },
        rejections=figures(Ratings(pair, who, rejected, 2)),
        annotators=_people(counted, ratings, list(people), task),
    )


def _people(
    answers: Sequence[Answer], ratings: Ratings, names: Sequence[str], task: AnnotationTask | None
) -> list[PersonFigures]:
    """Return all people, the most active first. names: of the people of the ratings."""
    work = defaultdict(list)
    close = defaultdict(list)  # whether scores of gold pairs are within the tolerance
    for answer in answers:
        if answer.kind == "work":
            work[answer.annotator].append(answer)
        if task is None or answer.kind != "gold" or answer.pair not in task.gold.by_id:
            continue
        for name, score in task.gold.by_id[answer.pair].scores.items():
            if name in answer.differences:
                close[answer.annotator].append(
                    task.gold.agrees(score, answer.differences[name].score)
                )
            elif answer.rejected is not None:
                close[answer.annotator].append(False)
    distances = defaultdict(list)
    for person, distance in zip(
        ratings.person.tolist(), from_others(ratings).tolist(), strict=True
    ):
        if not math.isnan(distance):
            distances[names[person]].append(distance)
    people = []
    for name in dict.fromkeys([*work, *close]):
        answered, gold, apart = work.get(name, []), close.get(name, []), distances.get(name, [])
        seconds = [answer.seconds for answer in answered if answer.seconds is not None]
        scores = [
            [difference.score for difference in answer.differences.values()] for answer in answered
        ]
        scored = [set(each) for each in scores if len(each) > 1]
        people.append(
            PersonFigures(
                annotator=name,
                answers=len(answered),
                rejected=sum(answer.rejected is not None for answer in answered),
                seconds=median(seconds) if seconds else None,
                distance=fmean(apart) if apart else None,
                shared=len(apart),
                scored=len(scored),
                equal=sum(len(each) == 1 for each in scored),
                gold_scores=len(gold),
                gold=fmean(gold) if gold else None,
            )
        )
    return sorted(people, key=lambda person: (-person.answers, person.annotator))


def figures(ratings: Ratings) -> AgreementFigures:
    import polars as pl

    _, item = np.unique(ratings.item, return_inverse=True)
    items = int(item.max(initial=-1)) + 1
    cells = np.bincount(item * ratings.levels + ratings.score, minlength=items * ratings.levels)
    counts = cells.reshape(items, ratings.levels).astype(np.int64)
    counts = counts[counts.sum(1) > 1]
    frame = pl.DataFrame({"item": ratings.item, "person": ratings.person, "score": ratings.score})
    both = frame.join(frame, on="item").filter(pl.col("person") < pl.col("person_right"))
    couples = [both[name].to_numpy() for name in ("person", "person_right", "score", "score_right")]
    kappas, shared = _kappas(couples, ratings.levels)
    apart = np.abs(couples[2] - couples[3])
    return AgreementFigures(
        items=len(counts),
        ratings=int(counts.sum()),
        two_of_three=two_of_three(counts),
        pairwise=_mean(apart == 0),
        kappa=_mean(kappas),
        kappa_weighted=float(np.average(kappas, weights=shared)) if len(kappas) else None,
        kappa_pairs=len(kappas),
        distance=_mean(apart[apart > 0]),
        nominal=alpha(counts, "nominal"),
        ordinal=alpha(counts, "ordinal"),
        interval=alpha(counts, "interval"),
    )


def two_of_three(counts: Int64[np.ndarray, "U L"]) -> float | None:
    """Return the share of all triples of ratings of one item in which at least two are the same."""
    n, counts = counts.sum(1), counts.astype(np.int64)
    triples = n * (n - 1) * (n - 2) // 6
    # Newton: the triples of three different scores are the third elementary symmetric polynomial of
    # the counts.
    different = (n**3 - 3 * n * (counts**2).sum(1) + 2 * (counts**3).sum(1)) // 6
    return None if not triples.sum() else float(1 - different.sum() / triples.sum())


def _kappas(
    couples: Sequence[Int64[np.ndarray, " C"]], levels: int
) -> tuple[Float64[np.ndarray, " P"], Int64[np.ndarray, " P"]]:
    """Return the kappa of each pair of people for which it is defined, and how many items they
    share."""
    one, two, first, second = couples
    _, pair = np.unique(one * (two.max(initial=0) + 1) + two, return_inverse=True)
    cells = (pair * levels + first) * levels + second
    pairs = int(pair.max(initial=-1)) + 1
    tables = (
        np.bincount(cells, minlength=pairs * levels**2)
        .reshape(pairs, levels, levels)
        .astype(np.int64)
    )
    shared = tables.sum((1, 2))
    observed = np.einsum("pll->p", tables) / shared
    expected = (tables.sum(1) * tables.sum(2)).sum(1) / shared**2
    defined = expected < 1
    return (observed[defined] - expected[defined]) / (1 - expected[defined]), shared[defined]


def from_others(ratings: Ratings) -> Float[np.ndarray, " R"]:
    """Return the distance of each rating from the median of the other ratings of its item; NaN if
    it is alone."""
    places = defaultdict(list)
    for place, item in enumerate(ratings.item.tolist()):
        places[item].append(place)
    distances, scores = np.full(len(ratings.item), np.nan), ratings.score.tolist()
    for of_item in places.values():
        for place in of_item if len(of_item) > 1 else ():
            distances[place] = abs(
                scores[place] - median(scores[other] for other in of_item if other != place)
            )
    return distances


def _mean(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None


# Reasons to look at a person's answers. The thresholds flag 5 of the 81 people of ConViS-Bench who
# answered at least ANSWERS pairs: two for their distance, two for equal scores, one for speed.
ANSWERS = 5  # pairs that a person answered, at least, before speed and equal scores count
SHARED = 20  # scores on pairs that others scored too, at least, before the distance counts
GOLD = 5  # gold scores, at least, before they count
MOST_DISTANCE = 1.3  # mean distance of scores from the median of the others
LEAST_GOLD = 0.7  # share of gold scores within the tolerance
LEAST_TIME = 1 / 3  # of the median time of the other people
MOST_EQUAL = 0.5  # share of pairs with one score in all categories


def flags(person: PersonFigures, everyone: Sequence[PersonFigures]) -> list[str]:
    """Return one sentence for each threshold that a person's figures pass: a question, not a
    verdict.

    everyone: with whom times are compared.
    """
    reasons = []
    if person.distance is not None and person.shared >= SHARED and person.distance > MOST_DISTANCE:
        reasons.append(
            f"{person.distance:.1f} from the scores of others, over {person.shared:,} shared scores"
        )
    if person.gold is not None and person.gold_scores >= GOLD and person.gold < LEAST_GOLD:
        wrong = round((1 - person.gold) * person.gold_scores)
        reasons.append(
            f"{wrong:,} of {person.gold_scores:,} gold scores are too far from the known ones"
        )
    others = [
        other
        for other in everyone
        if other.annotator != person.annotator and other.answers >= ANSWERS
    ]
    times = [other.seconds for other in others if other.seconds is not None]
    if person.seconds is not None and times and person.answers >= ANSWERS:
        usual = median(times)
        if person.seconds < LEAST_TIME * usual:
            reasons.append(f"{person.seconds:.0f} s a pair, others take {usual:.0f} s")
    if person.scored >= ANSWERS and person.equal > MOST_EQUAL * person.scored:
        reasons.append(
            f"one score in all categories for {person.equal:,} of {person.scored:,} pairs"
        )
    return reasons


NOTES = (
    "Scores: {scores}. An item is a pair of clips in a category that at least two people scored.",
    "2 of 3: share of all triples of people who scored one item in which at least two gave the "
    "same score. Equal: share of all pairs of people. Kappa: Cohen's, mean over pairs of people "
    "who share items; weighted: by how many items they share. Distance: mean distance of two "
    "different scores of one item. Alpha: Krippendorff's; 0 = chance, 1 = all agree.",
)
PERSON = {
    "answers": ("pairs", ","), "rejected": ("rejected", ","), "seconds": ("median s", ".0f"),
    "distance": ("distance", ".2f"), "gold_scores": ("gold scores", ","), "gold": ("gold", ".0%"),
}  # fmt: skip
"""figure of a person -> its heading, and its form"""
PEOPLE_NOTE = (
    "Distance: of a person's score from the median of the others' scores, mean. Gold: share of "
    "scores of gold pairs within the tolerance of the known score."
)


@dataclass(frozen=True)
class AgreementOptions:
    file: str
    """collected answers"""
    task: str | None = None
    """YAML file of the annotation task, which has the known scores of gold pairs"""
    out: str | None = field(default=None, metadata=WRITTEN)
    """Markdown file to write the tables to"""


def run(options: AgreementOptions) -> dict[str, Any]:
    task = None if options.task is None else read_task(options.task)
    refused: list[str] = []
    answers = read_collected(options.file, refused.append)
    record = {"file": options.file, **asdict(agreement(answers, task)), "failed": refused}
    if options.out is not None:
        page = f"# Agreement\n\n{summary(record)}\n\n" + "".join(map(to_markdown, grids(record)))
        write_text(Path(options.out), page)
    return record


def summary(record: dict[str, Any]) -> str:
    counts = (
        "{answers:,} answers of {people:,} people about {pairs:,} pairs, {rejected:,} of them "
        "rejections"
    )
    replaced = "; {replaced:,} earlier answers do not count." if record["replaced"] else "."
    return (counts + replaced).format(**record)


def grids(record: dict[str, Any]) -> list[Grid]:
    names = ("nominal", "ordinal", "interval")
    columns = [
        ("", "items"),
        ("", "scores"),
        ("", "2 of 3"),
        ("", "equal"),
        ("kappa", "mean"),
        ("kappa", "weighted"),
    ]
    columns += [("", "distance"), *(("alpha", name) for name in names)]

    def row(name: str, figures: dict[str, Any]) -> tuple[str, list[Cell | None]]:
        shares = ("two_of_three", "pairwise", "kappa", "kappa_weighted", "distance", *names)
        counts = [cell(figures["items"], ","), cell(figures["ratings"], ",")]
        return name, [*counts, *(cell(figures[key], ".3f") for key in shares)]

    blocks = [Block("", [row(name, figures) for name, figures in record["categories"].items()])]
    blocks.append(Block("", [row("all categories", record["overall"])]))
    if record["rejected"]:
        blocks.append(Block("", [row("rejecting the pair", record["rejections"])]))
    notes = [note.format(**record) for note in NOTES]
    people = [
        (person["annotator"], [cell(person[key], form) for key, (_, form) in PERSON.items()])
        for person in record["annotators"]
    ]
    headings = [("", heading) for heading, _ in PERSON.values()]
    table = Grid("People", "annotator", headings, [Block("", people)], [PEOPLE_NOTE])
    return [Grid("Agreement by category", "category", columns, blocks, notes), table]


def cell(value: int | float | None, form: str) -> Cell | None:
    """Return a figure's cell, None if it is not defined."""
    return (
        None
        if value is None
        else Cell(f"{value:{form}}" if form in (",", ".0%") else number(value, form))
    )


def show(record: dict[str, Any]) -> None:
    show_refused(record)
    print(f"{record['file']}: {summary(record)}")
    show_tables(grids(record))


def main(argv: list[str] | None = None) -> int:
    return parse(
        AgreementOptions,
        argv,
        "stepdiff.annotate.agreement",
        __doc__,
        run,
        show,
        ("file",),
        incomplete,
    )


if __name__ == "__main__":
    command.run(main)
