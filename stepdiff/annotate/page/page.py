"""An audit as one HTML page: figures, then pairs with contact sheets of their clips.

The page contains its pictures and needs no other file; page.html is its template. Its figures include the record of
stepdiff annotate pairqa about the same file.

Guarantees
- nothing of the data is read as HTML
- only pictures that the page made are embedded: no address in the data is loaded
- a contact sheet shows frames of the clip, and a clip that cannot be shown is a reason
"""

import base64
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
import polars as pl
from markupsafe import Markup
from PIL import Image
from pydantic import BaseModel

from featurize.video.decode import Clip, read_clips
from featurize.video.picture import Crop
from heads.data.clip_texts import ClipTexts
from stepdiff.annotate.people.files import checked, read_text
from stepdiff.annotate.qa.job import Question
from stepdiff.common.errors import StepDiffError
from stepdiff.common.look import look
from stepdiff.common.streams import generator

FRAMES, SIDE = 4, 152  # pixels
_QUALITY = 78  # of JPEG


@dataclass(frozen=True)
class Sample:
    """A pair on the page."""

    reference: str
    candidate: str
    questions: Sequence[Question]
    sheets: tuple[bytes | str, bytes | str]  # JPEG of each clip, or why it has none
    descriptions: tuple[str, str]


def page(record: Mapping[str, Any], samples: Sequence[Sample]) -> str:
    """Return the whole page; record: as stepdiff annotate audit prints it."""
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here), autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True
    )
    return environment.get_template("page.html").render(
        record=record,
        samples=samples,
        style=Markup(look() + (here / "page.css").read_text(encoding="utf-8")),
        base64=lambda data: base64.b64encode(data).decode(),
        dropped=lambda counts: [(f"dropped: {reason}", count) for reason, count in counts["dropped"].items()],
        leak_rows=lambda leaks: [(reason, len(clips), ", ".join(clips[:3])) for reason, clips in leaks.items()],
        bars=_bars,
    )


def _bars(counts: Mapping[str, int]) -> Iterator[tuple[int, int, float]]:
    """Yield number of words, count and height in per cent for every number of words up to the largest."""
    for words in range(max(map(int, counts)) + 1):
        count = counts.get(str(words), 0)
        yield words, count, 100 * count / max(counts.values())


def contact_sheets(clips: pl.DataFrame, videos: Path) -> dict[str, bytes | str]:
    """Return clip -> JPEG of a strip of its frames, or why it has none.

    clips: key, video (a path in the folder `videos`), start and end in seconds.
    """
    sheets: dict[str, bytes | str] = {}
    for (video,), rows in clips.group_by("video", maintain_order=True):
        keys = rows["key"].to_list()
        times = list(zip(rows["start"], rows["end"], strict=True))
        for found in read_clips(videos / str(video), times, FRAMES, Crop(SIDE, SIDE), sampling="segment-centres"):
            sheets[keys[found.index]] = _jpeg(found) if isinstance(found, Clip) else found.reason
    return sheets


def _jpeg(clip: Clip) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.concatenate(list(clip.frames), axis=1)).save(file, "JPEG", quality=_QUALITY, optimize=True)
    return file.getvalue()


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


class _Type(BaseModel, strict=True):
    written: int
    kept: int
    dropped: dict[str, int]


class _Record(BaseModel, strict=True):
    pairs: int
    undescribed: int
    types: dict[str, _Type]
    examples: dict[str, list[str]]
    provenance: Any


def read_record(path: Path) -> dict[str, Any] | None:
    """Return what stepdiff annotate pairqa recorded about the PairQA file `path`; None if it has no record."""
    record = path.with_suffix(".record.json")
    if not record.exists():
        return None
    try:
        return checked(_Record.model_validate, json.loads(read_text(record))).model_dump()
    except (StepDiffError, ValueError, RecursionError) as error:
        why = f"not a record of stepdiff annotate pairqa ({error})"
        raise StepDiffError(f"{record}: {why}; run that again, or remove it") from error
