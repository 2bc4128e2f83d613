"""The pages as dictionaries: the list of test sets, and the rows of one with truth, answers and
clips.

Only the rows of the page, at most 50, are looked up in the store. Targets are in the order of their
true scores, and in each method's order, most similar first.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from heads.reporting.entries import CHANCE
from stepdiff.app.compare.select import ROWS_AT_ONCE, ChosenRows, Selection, Where, counted, related
from stepdiff.app.compare.sets import (
    NEITHER,
    RIGHT,
    WRONG,
    Column,
    TestSet,
    Totals,
    names,
    supported,
)
from stepdiff.app.site import ClipRecord, Site
from stepdiff_core.tasks.scoring import PUBLISHED, kendall_tau
from stepdiff_core.tasks.testsets import DiffCap, DiffMCQ, DiffRank, clips_of

MOST_TEXT = 2000  # characters of a text that are shown
_VERDICTS = {RIGHT: "right", WRONG: "wrong", NEITHER: ""}
ClipsById = Mapping[str, ClipRecord]  # clips that the store has, by id


def set_line(tests: TestSet) -> dict[str, Any]:
    """Return a test set and its methods."""
    return {
        "task": tests.task,
        "task_name": PUBLISHED[tests.task].title,
        "id": tests.id,
        "address": Selection(set=tests.id).address(f"/compare/{tests.task}"),
        "rows": len(tests.rows),
        "videos": len(set(tests.videos)),
        "categories": len(set(tests.categories)),
        "common": int(np.logical_and.reduce([column.answered for column in tests.columns]).sum()),
        "metrics": names(tests.metrics),
        "chance": {metric: CHANCE[metric] for metric in tests.metrics if metric in CHANCE},
        "methods": [
            {
                "letter": one.letter,
                "method": one.method,
                "rows": int(one.answered.sum()),
                "totals": totals,
            }
            for one, totals in zip(tests.columns, tests.totals, strict=True)
        ],
    }


def rows_page(
    site: Site, chosen: ChosenRows, others: list[tuple[str, str]], path: str
) -> dict[str, Any]:
    """Return the rows of a test set that an address selects. others: address and name of the task's
    other sets."""
    tests, selection, order = chosen.tests, chosen.selection, chosen.order
    pages = max(1, -(-len(order) // ROWS_AT_ONCE))
    if (
        selection.row in tests.keys
        and (place := np.flatnonzero(order == tests.keys.index(selection.row))).size
    ):
        # the page of the open row, also if other files have come in
        number = int(place[0]) // ROWS_AT_ONCE + 1
    else:
        number = min(selection.page, pages)
    selection = selection.model_copy(update={"page": number})
    start = (number - 1) * ROWS_AT_ONCE
    here = order[start : start + ROWS_AT_ONCE].tolist()
    clips = site.clips_by_id(clip for place in here for clip in clips_of(tests.rows[place]))
    totals = Totals(tests, chosen.mask)
    return {
        "title": f"{PUBLISHED[tests.task].title}, {tests.id}",
        "task": tests.task,
        "task_name": PUBLISHED[tests.task].title,
        "path": path,
        "set": tests.id,
        "others": others,
        "selection": selection.model_dump(),
        "metric": chosen.metric,
        "metrics": names(tests.metrics),
        "a": chosen.a.letter,
        "b": chosen.b.letter if chosen.b else "",
        "methods": [_method(chosen, column, totals, path) for column in tests.columns],
        "categories": counted(tests.categories),
        "steps": counted(step for step in chosen.steps if step is not None),
        "all_rows": len(tests.rows),
        "common": int(chosen.common.sum()),
        "selected": len(order),
        "selected_videos": len({tests.videos[place] for place in order}),
        "filters": chosen.filters(path),
        "all": selection.address(path, where="", category="", step="", text="", common=False),
        "export": selection.address(f"{path}/export"),
        # shows or hides all clips
        "strips": selection.address(path, strips=not selection.strips, page=number),
        "at": {
            "first": start + 1 if here else 0,  # from 1
            "last": start + len(here),
            "previous": selection.address(path, page=number - 1) if number > 1 else "",
            "next": selection.address(path, page=number + 1) if number < pages else "",
        },
        "rows": [_row(site, chosen, place, clips, path) for place in here],
    }


def _method(chosen: ChosenRows, column: Column, totals: Totals, path: str) -> dict[str, Any]:
    """Return a method in the header of the rows. A value of null is not shown, or belongs to method
    A itself."""
    base, shown = column is chosen.a, column in chosen.shown

    def link(where: Where, a: Column, b: Column | None = None) -> dict[str, Any]:
        """Return a relation between methods, with the other filters as they are."""
        rows = int((chosen.outer & related(where, a, b, chosen.metric)).sum())
        methods = {"a": a.method.id, "b": b.method.id if b else ""}
        return {"rows": rows, "address": chosen.selection.address(path, where=where, **methods)}

    return {
        "letter": column.letter,
        "method": column.method,
        "shown": shown,
        "base": base,  # method A, that the others are compared with
        "make_base": chosen.selection.address(path, a=column.method.id, b="", where="", sort=""),
        "totals": totals.of(column) if shown or base else None,
        "versus": totals.versus(column, chosen.a, chosen.metric) if shown and not base else None,
        "right": link("right", column) if shown else None,
        "wrong": link("wrong", column) if shown else None,
        "better": link("worse", chosen.a, column) if shown and not base else None,
        "worse": link("better", chosen.a, column) if shown and not base else None,
    }


def steps_of(site: Site, tests: TestSet) -> list[str | None]:
    """Return the step of each row's reference clip, None if the store does not know it."""
    clips = site.clips_by_id(map(_reference, tests.rows))
    return [_step(clips, row) for row in tests.rows]


def _step(clips: ClipsById, row: Any) -> str | None:
    clip = clips.get(_reference(row))
    return None if clip is None else clip.step


def _reference(row: Any) -> str:
    """Return the reference clip of a row, in DiffMCQ of the answer."""
    return str(row.answer[0] if isinstance(row, DiffMCQ) else row.reference)


def _row(site: Site, chosen: ChosenRows, place: int, clips: ClipsById, path: str) -> dict[str, Any]:
    """Return a row with its answers."""
    row, key = chosen.tests.rows[place], chosen.tests.keys[place]

    def note(clip: str) -> dict[str, Any]:
        there = clips.get(clip)
        pictures = site.videos is not None and there is not None and there.video is not None
        title = clip if there is None else there.title
        return {"key": clip, "title": title, "known": there is not None, "pictures": pictures}

    texts: tuple[str, ...] = ()
    if isinstance(row, DiffMCQ):
        order, question = list(range(len(row.options))), row.difference
        answer = row.options.index(row.answer)
        pairs = [
            (*pair, "answer" if number == answer else "") for number, pair in enumerate(row.options)
        ]
    elif isinstance(row, DiffRank):
        order, question = (
            sorted(range(len(row.targets)), key=lambda at: -row.scores[at]),
            row.reference,
        )
        pairs = [(row.reference, row.targets[at], str(row.scores[at])) for at in order]
    else:
        order, texts, pairs = [0], row.text, [(row.reference, row.candidate, "")]
        question = texts[0] if texts else "no difference"
    return {
        "id": key,
        "number": place + 1,
        "category": row.category,
        "step": _step(clips, row),
        "question": _short(question),  # what the table shows of the row
        "references": [_short(text) for text in texts],
        "options": [
            {"number": number, "reference": note(one), "candidate": note(two), "truth": truth}
            for number, (one, two, truth) in enumerate(pairs, start=1)
        ],
        "replies": [_reply(chosen, column, place, order) for column in chosen.shown],
        "address": chosen.selection.address(path, row=key, page=chosen.selection.page),
    }


def _reply(chosen: ChosenRows, column: Column, place: int, order: list[int]) -> dict[str, Any]:
    """Return a method's answer to the row at a place. order: the place in the row of each option
    that is shown."""
    task, row, answer = chosen.tests.task, chosen.tests.rows[place], column.prediction(place)
    value = column.margins[place] if task == "diffmcq" else column.values(chosen.metric)[place]
    text = "" if np.isnan(value) else f"{value:.2f}" if task == "diffcap" else signed(value)
    reply: dict[str, Any] = {
        "letter": column.letter,
        "name": column.method.name,
        "most": "",
        "places": [],
    }
    reply |= {"caption": [], "similar": None, "tie": task == "diffmcq" and bool(value == 0)}
    if isinstance(row, DiffMCQ) and answer is not None:
        choice = column.choice(place)
        reply["places"] = [
            _place(number, score, number - 1 == choice) for number, score in enumerate(answer, 1)
        ]
    elif isinstance(row, DiffRank) and answer is not None:
        numbers = sorted(range(1, len(order) + 1), key=lambda number: -answer[order[number - 1]])
        truth = [row.scores[order[number - 1]] for number in numbers]
        reply["places"] = [
            _place(number, answer[order[number - 1]], above=truth[at] < max(truth[at:]))
            for at, number in enumerate(numbers)
        ]
        reply["most"] = highest_tau(row, answer, chosen.metric) if text else ""
        text = text or "no order"
    elif isinstance(row, DiffCap) and answer is not None:
        reply["caption"] = supported(_short(answer), row.text, chosen.tests.frequent_words)
        reply["similar"] = (
            column.answers.similar[column.place[place]] if column.answers.similar else None
        )
    return reply | {
        "text": text,
        "verdict": "absent" if answer is None else _VERDICTS[int(column.verdicts[place])],
    }


def _place(number: int, score: float, chosen: bool = False, above: bool = False) -> dict[str, Any]:
    """Return an option in a method's answer.

    chosen: it is the method's choice; above: it is placed above a target that is more similar in
    truth.
    """
    return {"number": number, "score": score, "chosen": chosen, "above": above}


def highest_tau(row: DiffRank, scores: Sequence[float], metric: str) -> str:
    """Return the tau of the scores in the order of the truth; empty if it is 1 or undefined."""
    least = 1 if metric.startswith("ktau_within_step") else 0
    counted = [
        (true, score) for true, score in zip(row.scores, scores, strict=True) if true >= least
    ]
    truth, sorted_scores = (
        np.array([sorted(values)], float) for values in zip(*counted, strict=True)
    )
    tau = kendall_tau(sorted_scores, truth)[0]
    return "" if np.isnan(tau) or tau > 0.995 else f"{tau:.2f}"


def signed(value: float) -> str:
    """Return a number with its sign, to three digits: margins of log-likelihoods are small, margins
    of logits large."""
    if abs(value) >= 0.1 or value == 0:
        return f"{value:+.2f}"
    return f"{value:+.1g}" if abs(value) < 0.01 else f"{value:+.3f}"


def _short(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[:MOST_TEXT] + " …"
