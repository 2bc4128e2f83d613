"""The pages of a pair and of the finder: facts of the catalog, the videos, heads and predictions
about two clips.

Guarantees
- the `warp` of an alignment never goes back in time, and covers Video 1 from its begin to its end
"""

import re
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import numpy as np

from featurize.video.stream import opened
from heads.differences import DifferencesOptions
from heads.evidence.differences import find
from retrieval import align, read_moments
from retrieval.moments import has_frames
from stepdiff.app.cache import LRUCache
from stepdiff.app.pair.alike import (
    MOST_KEPT,
    PRESET_CATEGORIES,
    KeptOdds,
    cosines,
    embedding_views,
    similarities,
)
from stepdiff.app.pair.finder import Finder, PairSearch, Result
from stepdiff.app.pair.loading import RunHead, Runs
from stepdiff.app.pair.stored import Stored
from stepdiff.app.pair.worker import ModelWorker
from stepdiff.app.site import ClipRecord, Site, UnknownError
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.declining import UNSURE
from stepdiff_core.tasks.prompts import PRESETS, SIMILAR_QUESTION
from stepdiff_core.tasks.testsets import CATEGORIES, Pair
from store import View
from store.view import OK

MOST_LISTED = 12  # pairs with the same difference
MOST_STEPS = 2000  # steps that can be chosen
MOST_CHARACTERS = 2000  # of a value of the catalog
RATE, SIZE = 25.0, (160, 90)
"""for an unknown video file"""
MOST_WRITTEN = 1000  # pairs whose captions are kept


class Pairs:
    """Runs and predictions of a site, results of heads that are kept, and the worker that has a
    head in memory."""

    def __init__(self, site: Site) -> None:
        self.site, self.runs, self.stored = site, Runs(site), Stored(site)
        self.odds: KeptOdds = LRUCache(MOST_KEPT)
        self.captions: LRUCache[tuple[RunHead, Pair], list[dict[str, Any]]] = LRUCache(MOST_WRITTEN)
        self.finder = Finder(site, self.stored, self.odds)
        self.worker = ModelWorker(self.runs.load)

    def page(self, pair: Pair, search: PairSearch | None, at: int) -> dict[str, Any]:
        """Return the page of a pair. search, at: the list that it is shown from, and its place
        there."""
        heads, words, in_memory = (
            self.runs.heads(),
            self.runs.words(),
            getattr(self.worker.head, "name", ""),
        )
        first, second = self.site.clips(pair)
        swapped = {"reference": pair[1], "candidate": pair[0]}
        written = [(head.name, self.captions.get((head, pair))) for head in heads]
        return {
            "title": first.step if first.step and first.step == second.step else "A pair",
            "reference": shown(self.site, first),
            "candidate": shown(self.site, second),
            "swapped": "/pair?" + urlencode(swapped)
            if search is None
            else search.address(**swapped, at=at),
            "listed": None if search is None else self._listed(pair, search, at, heads),
            "columns": columns(self.site, pair),
            # exact, of the sample world, those that differ first
            "attributes": self._attributes(pair),
            "categories": list(CATEGORIES),
            "heads": [
                {"name": head.name, "title": _title(head), "loaded": head.name == in_memory}
                for head in heads
            ],
            "words": words,  # heads of words, whose evidence `/pair/words` returns
            "knowledge": self.runs.knowledge(pair, heads, words),
            "similar": self._similar(pair, heads),
            "truth": self.stored.truth(pair),
            "cosines": cosines(self.site, pair),
            # what heads are asked for `similar`; {category} is replaced
            "question": SIMILAR_QUESTION,
            "unsure": UNSURE,
            "captions": self.stored.captions(pair),
            "checked": self.stored.truth_of(pair) is not None,  # whether details of captions are
            "written": [
                {"head": name, "captions": captions}
                for name, captions in written
                if captions is not None
            ],
            "presets": [
                {"name": name, "question": question, "category": PRESET_CATEGORIES[name]}
                for name, question in PRESETS.items()
            ],
        }

    def finder_page(self, search: PairSearch) -> dict[str, Any]:
        """Return the page of a search for pairs, with its list or the reason why it has none."""
        problem, result, heads = "", Result([], "", ""), self.runs.heads()
        try:
            result = self.finder.search(search, heads)
        except UnknownError as error:
            problem = str(error)
        methods = [
            (f"cosine:{view}", f"cosine of {view} (whole clips)")
            for view in embedding_views(self.site)
        ]
        methods += [(f"head:{head.name}", f"log-odds of {head.name} (computed)") for head in heads]
        rankings = self.stored.rankings()
        methods += [(f"stored:{name}", f"predictions of {title}") for name, title in rankings]
        methods += [("truth", "true scores (DiffRank)")] if rankings else []
        return {
            "title": "Find a pair",
            "search": search,
            "result": result,
            "titles": _titles(
                self.site,
                (pair[side] for pair in result.pairs for side in ("reference", "candidate")),
            ),
            "problem": problem,
            "steps": [(step, len(rows)) for step, rows in self.finder.sample().steps.items()][
                :MOST_STEPS
            ],
            "categories": list(CATEGORIES),
            "methods": methods,  # value of `by` and its title
        }

    def elsewhere_page(self, options: DifferencesOptions) -> dict[str, Any]:
        """Return the page of pairs that differ as two clips, two groups or a sentence do.

        The first head of words compares them; without one, the first view with one embedding a
        clip. UnknownError: the store has no such clip.
        """
        self.site.clips([*options.reference, *options.candidate])
        same, problem, words, views = None, "", self.runs.words(), embedding_views(self.site)
        try:
            if not words and not views:
                why = "no head of words, and no view with one embedding a clip"
                raise StepDiffError(f"{why}: start the server with --runs")
            by = self.runs.evidence(words[0]) if words else self.site.store.view("clips", views[0])
            same = find(self.site.store, by, options, self.finder.sample())
        except StepDiffError as error:
            problem = str(error)
        pairs = () if same is None else same.pairs
        listed = (clip for pair in pairs for clip in (pair.reference, pair.candidate))
        return {
            "title": "The same difference elsewhere",
            "text": options.text,
            "reference": options.reference,
            "candidate": options.candidate,
            "category": same.category if same else options.category,
            "categories": list(CATEGORIES),
            "same": same,
            "titles": _titles(self.site, (*options.reference, *options.candidate, *listed)),
            "lacks": [_lacks(same.words, pair.words) for pair in pairs] if same else [],
            "problem": problem,
        }

    def _attributes(self, pair: Pair) -> list[dict[str, Any]]:
        truth = self.stored.truth_of(pair)
        if truth is None:
            return []
        one, two = map(asdict, truth)
        attributes = [_column(name, one[name], two[name]) for name in one if one[name] or two[name]]
        return sorted(attributes, key=lambda column: not column["differs"])

    def _similar(self, pair: Pair, heads: list[RunHead]) -> list[dict[str, Any]]:
        """Return the computed log-odds of a pair, and for heads without them the stored ones."""
        odds_of = {
            head.name: dict(odds)
            for head in heads
            if (odds := self.odds.get((head, pair))) is not None
        }
        for name, odds in self.stored.similar(pair).items():
            odds_of[name] = odds | odds_of.get(name, {})
        return [{"head": name, "values": similarities(odds)} for name, odds in odds_of.items()]

    def _listed(
        self, pair: Pair, search: PairSearch, at: int, heads: list[RunHead]
    ) -> dict[str, Any]:
        """Return the place of a pair in the list of a search; number 0: the list lacks it, or has
        to be computed."""
        try:
            pairs = self.finder.search(search, heads).pairs
        except UnknownError:  # the runs or predictions of the list are gone
            pairs = []
        places = [
            place
            for place, each in enumerate(pairs)
            if {each["reference"], each["candidate"]} == set(pair)
        ]
        place = places[0] if places else -1
        following = (place if places else at) + 1
        return {
            "number": place + 1,
            "total": len(pairs),
            "next": pairs[following]["address"] if following < len(pairs) else "",
            "previous": pairs[place - 1]["address"] if place > 0 else "",
            "back": search.address(),
            "search": search,
        }


def _titles(site: Site, clips: Iterable[str]) -> dict[str, str]:
    """Return the files and times of clips, by id."""
    return {key: clip.title for key, clip in site.clips_by_id(clips).items()}


def _lacks(difference: str, words: str) -> str:
    """Return the words of a difference that another one lacks, "" for none: "bowl" is part of "blue
    bowl"."""
    one, other = (
        re.split(r", | instead of ", each.removeprefix("no ")) for each in (difference, words)
    )
    return ", ".join(word for word in one if not any(f" {word} " in f" {each} " for each in other))


def _title(head: RunHead) -> str:
    return f"{head.name} ({head.system}, {Path(head.language_model).name})"


def shown(site: Site, clip: ClipRecord) -> dict[str, Any]:
    """Return a clip with its frame rate; usual values, and the reason, if its video cannot be
    opened."""
    path = "" if clip.video is None else str(Path(site.videos or "") / clip.video)
    about = {"clip": clip, "path": path, "missing": ""}
    try:
        file = site.file(clip)
        return about | {"picture": _picture(file, file.stat().st_mtime_ns)}
    except (StepDiffError, OSError) as error:
        return about | {
            "picture": {"rate": RATE, "width": SIZE[0], "height": SIZE[1]},
            "missing": str(error),
        }


@lru_cache(maxsize=1024)
def _picture(path: Path, _changed: int) -> dict[str, float]:
    with opened(path) as video:
        rate = float(video.rate)
        context = video.stream.codec_context
        width, height = context.width or SIZE[0], context.height or SIZE[1]
    return {"rate": rate if 1 <= rate <= 1000 else RATE, "width": width, "height": height}


def columns(site: Site, pair: Pair) -> list[dict[str, Any]]:
    """Return all columns of the catalog for two clips, empty if it has no value."""
    catalog = site.store.catalog("clips")
    records = {
        row["key"]: row for row in catalog.select(catalog.rows(list(pair))).drop("row").to_dicts()
    }
    one, two = (records[key] for key in pair)
    return [_column("id" if name == "key" else name, one[name], two[name]) for name in one]


def _column(name: str, one: Any, two: Any) -> dict[str, Any]:
    """Return a column of both clips. of_file: it identifies a video file, and says nothing about
    its content."""
    of_file = name.endswith(("_bytes", "_digest"))
    values = {"name": name, "reference": _text(one), "candidate": _text(two)}
    return values | {"differs": one != two, "of_file": of_file}


def _text(value: Any) -> str:
    text = "" if value is None else ", ".join(value) if isinstance(value, tuple) else str(value)
    return text if len(text) <= MOST_CHARACTERS else text[:MOST_CHARACTERS] + " ..."


def pair_alignment(site: Site, pair: Pair, preferred: str = "") -> dict[str, Any]:
    """Align two clips by the preferred view if it has frames of both, or else by the first view
    that has.

    Times are seconds of the clips, as the player has them, not of their videos.

    Returns:
        view: its name; problem: why there is no alignment, or else ""; warning: why not to rely on
            it, or "";
        path: moments that go together, with `first` and `second` in seconds and `cost`, their
            cosine distance;
        warp: corners of a line, [seconds in Video 1, seconds in Video 2];
        times, costs: seconds in Video 1 of its moments, and the mean cost of each on the path;
        only_first, only_second: begin and end of parts that look like nothing in the other video.
    """
    alignment: dict[str, Any] = {"view": "", "problem": "", "warning": ""}
    alignment |= {
        name: [] for name in ("path", "warp", "times", "costs", "only_first", "only_second")
    }
    view = _view_of_frames(site, pair, preferred)
    if view is None:
        missing = "no view of the store has several frames of both clips"
        return alignment | {
            "problem": f"no alignment: {missing}; run python -m featurize with such an encoder"
        }
    alignment["view"] = view.name
    try:
        aligned = align(read_moments(view, pair[0]), read_moments(view, pair[1]))
    except StepDiffError as error:  # the catalog has no times, or a frame has no direction
        return alignment | {"problem": f"no alignment: {error}"}
    (start, end), (start_2, end_2) = (
        (clip.start or 0.0, clip.end or 0.0) for clip in site.clips(pair)
    )
    times, times_2 = aligned.first.seconds - start, aligned.second.seconds - start_2
    one, two = aligned.path.T
    corners = dict(
        zip(times.tolist(), (aligned.warp(aligned.first.seconds) - start_2).tolist(), strict=True)
    )
    matches = zip(times[one].tolist(), times_2[two].tolist(), aligned.cost.tolist(), strict=True)
    return alignment | {
        "warning": aligned.warning,
        "path": [
            {"first": first, "second": second, "cost": cost} for first, second, cost in matches
        ],
        "warp": sorted(({0.0: 0.0, end - start: end_2 - start_2} | corners).items()),
        "times": times.tolist(),
        "costs": (np.bincount(one, aligned.cost) / np.bincount(one)).tolist(),
        "only_first": [(first - start, last - start) for first, last in aligned.only_first],
        "only_second": [(first - start_2, last - start_2) for first, last in aligned.only_second],
    }


def _view_of_frames(site: Site, pair: Pair, preferred: str) -> View | None:
    """Return a view with frames of both clips, the preferred one first."""
    rows = site.store.catalog("clips").rows(list(pair))
    for name in sorted(site.store.views("clips"), key=lambda name: (name != preferred, name)):
        view = site.store.view("clips", name)
        if has_frames(view) and (view.status(rows) == OK).all():
            return view
    return None
