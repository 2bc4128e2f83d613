"""The predictions of a site about a pair: captions, log-odds that it is similar, and the true
scores.

Guarantees
- predictions of a pair in the other order are not shown as this pair's
- details are checked only against a world whose clips show the steps of the catalog
"""

from collections import Counter
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

from stepdiff.app.compare.files import Answers, Lines
from stepdiff.app.compare.sets import supported
from stepdiff.app.pair.alike import Odds
from stepdiff.app.site import Site
from stepdiff.kitchen.attributes import Attributes
from stepdiff.kitchen.steps import MAIN
from stepdiff.kitchen.truth import judgements, read_world
from stepdiff_core.tasks.testsets import CATEGORIES, Pair, Task

MOST_METHODS = 12  # columns of captions


class Stored:
    """The predictions of a site, found by pair."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def captions(self, pair: Pair) -> dict[str, Any]:
        """Return the captions of a pair in all files, one column a file; files without it are left
        out.

        swapped: whether there are some for the pair in the other order.
        """
        methods: list[str] = []
        texts: list[dict[str, str]] = []  # of each method by category
        references, swapped = self.references(pair), False
        for name, answers, lines in self._files("diffcap"):
            captions = {
                answers.of.rows[line].category: answers.predictions[line]
                for line, _ in lines.get(pair, ())
            }
            swapped |= (pair[1], pair[0]) in lines
            if captions and len(methods) < MOST_METHODS:
                methods.append(name)
                texts.append(captions)
        rows = []
        for category in [*CATEGORIES, *sorted({*references}.union(*texts) - {*CATEGORIES})]:
            shown = [
                self.caption(pair, category, captions[category], references)
                if category in captions
                else None
                for captions in texts
            ]
            rows.append(
                {
                    "category": category,
                    "captions": shown,
                    "references": references.get(category, []),
                }
            )
        return {"methods": methods, "rows": rows, "swapped": swapped}

    def caption(
        self, pair: Pair, category: str, text: str, references: dict[str, list[str]]
    ) -> dict[str, Any]:
        """Return a caption of a pair with the words that references have.

        details: named for a video, checked against the exact attributes of both in a sample world.
        """
        truth = self.truth_of(pair)
        judged = judgements(text, category, *truth) if truth and category in CATEGORIES else {}
        details: list[dict[str, Any]] = []
        for (attribute, value, side), judgement in judged.items():
            words = (
                f"{attribute}: {value.replace('<', ' before ').replace(MAIN, 'the step itself')}"
            )
            details.append(
                {"words": words, "video": 1 if side == "reference" else 2, "judgement": judgement}
            )
        details.sort(key=lambda detail: (detail["video"], detail["words"]))
        return {"pieces": supported(text, references.get(category, ())), "details": details}

    def truth_of(self, pair: Pair) -> tuple[Attributes, Attributes] | None:
        """Return the attributes of both clips, if the videos are of a sample world and show one
        step."""
        folder = self._site.videos
        if (
            folder is None
            or not (folder / "world.json").is_file()
            or not (folder / "attributes.jsonl").is_file()
        ):
            return None
        file = folder / "attributes.jsonl"
        world = _world(file, file.stat().st_mtime_ns)
        truths = [world.get(clip) for clip in pair]
        steps = {clip.step for clip in self._site.clips(pair)} | {
            truth and truth.step for truth in truths
        }
        one, two = truths
        return None if one is None or two is None or len(steps) > 1 else (one, two)

    def references(self, pair: Pair) -> dict[str, list[str]]:
        references: dict[str, dict[str, None]] = {}
        for _, answers, lines in self._files("diffcap"):
            for line, _ in lines.get(pair, ()):
                row = answers.of.rows[line]
                references.setdefault(row.category, {}).update(dict.fromkeys(row.text))
        return {category: list(texts) for category, texts in references.items()}

    def similar(self, pair: Pair) -> dict[str, Odds]:
        """Return the log-odds of a pair in the predictions of each head, by category, without
        controls."""
        odds: dict[str, Odds] = {}
        for name, answers, lines in (*self._files("diffrank"), *self._files("diffcap")):
            if not answers.method.log_odds or answers.method.control:
                continue
            for line, place in lines.get(pair, ()):
                value = answers.predictions[line][place] if answers.of.task == "diffrank" else None
                value = answers.similar[line] if answers.similar is not None else value
                if value is not None:
                    odds.setdefault(name, {})[answers.of.rows[line].category] = value
        return {name: dict(sorted(values.items())) for name, values in odds.items()}

    def truth(self, pair: Pair) -> dict[str, int]:
        """Return the scores of a pair in DiffRank test sets, by category: 5 is most similar."""
        return {
            answers.of.rows[line].category: answers.of.rows[line].scores[place]
            for _, answers, lines in self._files("diffrank")
            for line, place in lines.get(pair, ())
        }

    def rankings(self) -> list[tuple[str, str]]:
        """Return id and name of the files that rank pairs."""
        return [(answers.method.id, name) for name, answers, _ in self._files("diffrank")]

    def ranked(self, method: str | None, category: str) -> dict[Pair, float]:
        """Return the pairs of a category with the scores of a file, by its id, or with the true
        ones (None)."""
        scores: dict[Pair, float] = {}
        for _, answers, lines in self._files("diffrank"):
            if method in (None, answers.method.id):
                for pair, places in lines.items():
                    for line, place in places:
                        row = answers.of.rows[line]
                        if row.category == category:
                            scores[pair] = (
                                row.scores[place]
                                if method is None
                                else answers.predictions[line][place]
                            )
        return scores

    def _files(self, task: Task) -> Iterator[tuple[str, Answers, Lines]]:
        """Yield the files of a task, trained heads first and controls last: name, answers, lines of
        pairs.

        Methods of one name, such as one head of several seeds, are named with the folders of their
        files.
        """
        files = [
            each
            for each in self._site.library.read()
            if isinstance(each, Answers) and each.of.task == task
        ]
        names = Counter(answers.method.name for answers in files)
        for answers in sorted(
            files, key=lambda each: (each.method.control, not each.method.trained)
        ):
            name = answers.method.name
            if names[name] > 1:
                name = f"{Path(answers.method.file).parent.name}/{name}"
            yield name, answers, answers.of.lines


@lru_cache(1)
def _world(file: Path, _changed: int) -> dict[str, Attributes]:
    return read_world(file)
