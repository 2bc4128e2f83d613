"""The pairs of an audit's page, and the record of annotate.pairqa about the same file."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import polars as pl

from annotate.page.page import Sample, contact_sheets
from annotate.qa.job import Question
from common.errors import StepDiffError
from common.streams import generator
from heads.data.clip_texts import ClipTexts

Drawn = dict[tuple[str, str], list[Question]]


def draw(rows: Sequence[Question], count: int, seed: int) -> Drawn:
    """Return the questions of `count` pairs, each in one of its two orders."""
    pairs: dict[frozenset[str], Drawn] = {}
    for row in rows:
        of_pair = pairs.setdefault(frozenset((row.reference, row.candidate)), {})
        of_pair.setdefault((row.reference, row.candidate), []).append(row)
    rng = generator(seed, "audited pairs")
    chosen = [list(pairs.values())[place] for place in sorted(rng.permutation(len(pairs))[:count])]
    return dict(list(orders.items())[rng.integers(len(orders))] for orders in chosen)


def samples(drawn: Drawn, clips: pl.DataFrame | None, videos: str | None, texts: ClipTexts | None) -> list[Sample]:
    """Return the drawn pairs with contact sheets and descriptions.

    clips: key, video, start and end of the clips of a store; videos: their folder; without either, no pictures.
    """
    sheets: dict[str, bytes | str] = {}
    if clips is not None and videos is not None:
        names = {clip for pair in drawn for clip in pair}
        complete = pl.all_horizontal(pl.col("video", "start", "end").is_not_null())
        sheets = contact_sheets(clips.filter(pl.col("key").is_in(names), complete), Path(videos))
    said = {} if texts is None else dict(texts.items())
    missing = "no picture: give --store and --videos" if not sheets else "the store does not know this clip"
    return [
        Sample(a, b, questions, (sheets.get(a, missing), sheets.get(b, missing)), (said.get(a, ""), said.get(b, "")))
        for (a, b), questions in drawn.items()
    ]


def read_record(path: Path) -> dict[str, Any] | None:
    """Return what annotate.pairqa recorded about the PairQA file `path`; None if it has no record."""
    record = path.with_suffix(".record.json")
    if not record.exists():
        return None
    try:
        made = json.loads(record.read_text(encoding="utf-8"))
        found = {name: made[name] for name in ("pairs", "undescribed", "types", "examples", "provenance")}
        counts = [found["pairs"], found["undescribed"]]
        for of_type in found["types"].values():
            counts += [of_type["written"], of_type["kept"], *of_type["dropped"].values()]
        texts = [text for some in found["examples"].values() for text in some]
        if not all(type(count) is int for count in counts) or not all(isinstance(text, str) for text in texts):
            raise TypeError("its counts must be whole numbers, its examples texts")
        return found
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        why = f"not a record of annotate.pairqa ({error})"
        raise StepDiffError(f"{record}: {why}; run that again, or remove it") from error
