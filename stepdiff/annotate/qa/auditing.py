"""An audit of a PairQA file: figures, clips that should not train, and one HTML page with pairs and
their frames.

The page contains its pictures and needs no other file: no address in the data is loaded, and
nothing of the data is read as HTML. page.html is its template.
"""

import base64
import io
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
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
from heads.data.catalog_rows import knows_splits
from heads.data.hold_out import REASONS, HoldOut
from stepdiff.annotate.forms.form import read_text
from stepdiff.annotate.qa.questions import Question
from stepdiff.annotate.qa.reading import names_one
from stepdiff_core.checked import checked
from stepdiff_core.io.jsonl import read_objects
from stepdiff_core.look import look
from stepdiff_core.streams import generator
from stepdiff_core.tasks.prompts import NO, VIDEOS, YES

N_GRAMS = (2, 3, 4)
OVERLAPPING = (1, 2, 3, 4)
MOST = 12  # n-grams that are shown for each length
_QUANTILES = {"least": 0.0, "5 %": 0.05, "median": 0.5, "95 %": 0.95, "most": 1.0}


def figures(rows: Sequence[Question]) -> dict[str, Any]:
    pairs = Counter((row.reference, row.candidate) for row in rows)
    worded = [row for row in rows if row.type != 3]  # by the language model
    texts = {
        "questions": [row.question for row in worded],
        "answers": [row.answer for row in worded],
    }
    return {
        "questions": len(rows),
        "pairs": len({frozenset(pair) for pair in pairs}),
        "in_both_orders": sum(one != two and (two, one) in pairs for one, two in pairs) // 2,
        "clips": len({clip for pair in pairs for clip in pair}),
        "types": dict(sorted(Counter(str(row.type) for row in rows).items())),
        "answers": _answers(rows),
        "words": {
            name: _lengths([len(text.split()) for text in of_name])
            for name, of_name in texts.items()
        },
        "different": {name: len(set(of_name)) for name, of_name in texts.items()},
        "n_grams": {
            name: {str(n): _n_grams(of_name, n) for n in N_GRAMS} for name, of_name in texts.items()
        },
    }


def _answers(rows: Sequence[Question]) -> dict[str, int]:
    """Count the answers that name one video, are YES or NO, or neither, such as answers of type
    1."""
    counts = Counter(dict.fromkeys((*VIDEOS, YES, NO, "other"), 0))
    for row in rows:
        one = None if row.type == 1 else names_one(row.answer)
        counts[row.answer if row.answer in (YES, NO) else VIDEOS[one - 1] if one else "other"] += 1
    return dict(counts)


def _lengths(words: Sequence[int]) -> dict[str, Any]:
    """Return quantiles, and the number of texts of each length; all are 0 without texts."""
    words = words or [0]
    quantiles: dict[str, Any] = {name: int(np.quantile(words, q)) for name, q in _QUANTILES.items()}
    counts = {str(n): count for n, count in sorted(Counter(words).items())}
    return quantiles | {"mean": round(float(np.mean(words)), 2), "counts": counts}


def _n_grams(texts: Sequence[str], n: int) -> list[tuple[str, int]]:
    counts = Counter(gram for text in texts for gram in set(_runs(text, n)))
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))[:MOST]


def _runs(text: str, n: int) -> list[str]:
    words = re.findall(r"[\w/'-]+", text.lower())
    return [" ".join(words[i : i + n]) for i in range(len(words) - n + 1)]


def overlap(rows: Sequence[Question], files: Sequence[str]) -> dict[str, float]:
    """Return, for n from 1 to 4, which share of the n-grams of test texts the open answers have
    too.

    files: test sets; DiffCap and DiffMCQ have texts. Empty if none has.
    """
    texts: list[str] = []
    for _, row in chain.from_iterable(map(read_objects, files)):
        texts += row.get("text", []) + ([row["difference"]] if "difference" in row else [])
    answers = [row.answer for row in rows if row.type == 1]
    shares = {}
    for n in OVERLAPPING:
        learned = {gram for answer in answers for gram in _runs(answer, n)}
        hits = [gram in learned for text in texts for gram in _runs(text, n)]
        if hits:
            shares[str(n)] = round(sum(hits) / len(hits), 3)
    return shares


def leaks(
    rows: Sequence[Question], catalog: pl.DataFrame, hold_out: HoldOut
) -> dict[str, list[str]]:
    """Return the clips that should not train, by reason.

    catalog: key, and video, start, end and split if they are known.
    """
    clips = pl.DataFrame(
        {"key": sorted({clip for row in rows for clip in (row.reference, row.candidate)})}
    )
    unknown = clips.join(catalog, on="key", how="anti", maintain_order="left")
    clips_of = {"not in the store": unknown["key"].to_list()}
    if knows_splits(catalog):
        stored = clips.join(catalog, on="key", how="inner", maintain_order="left")
        clips_of["of another split than train"] = stored.filter(
            pl.col("split").ne_missing("train")
        )["key"].to_list()
    if hold_out.files:
        hold_out.look_up(pl.concat([catalog, unknown], how="diagonal"))
        held_out = clips.join(hold_out.clips, on="key", maintain_order="left")
        clips_of |= {reason: held_out.filter(reason=reason)["key"].to_list() for reason in REASONS}
    return clips_of


FRAMES, SIDE = 4, 152  # pixels
_QUALITY = 78  # of JPEG


@dataclass(frozen=True)
class AuditedPair:
    reference: str
    candidate: str
    questions: Sequence[Question]
    sheets: tuple[bytes | str, bytes | str]  # JPEG of each clip, or why it has none
    descriptions: tuple[str, str]


def page(record: Mapping[str, Any], samples: Sequence[AuditedPair]) -> str:
    """Return the whole page; record: as stepdiff annotate audit prints it."""
    here = Path(__file__).parent
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(here),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
    )
    return environment.get_template("page.html").render(
        record=record,
        samples=samples,
        style=Markup(look() + (here / "page.css").read_text(encoding="utf-8")),
        base64=lambda data: base64.b64encode(data).decode(),
        dropped=lambda counts: [
            (f"dropped: {reason}", count) for reason, count in counts["dropped"].items()
        ],
        leak_rows=lambda leaks: [
            (reason, len(clips), ", ".join(clips[:3])) for reason, clips in leaks.items()
        ],
        bars=_bars,
    )


def _bars(counts: Mapping[str, int]) -> Iterator[tuple[int, int, float]]:
    """Yield number of words, count and height in per cent for every number of words up to the
    largest."""
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
        for clip in read_clips(
            videos / str(video), times, FRAMES, Crop(SIDE, SIDE), sampling="segment-centres"
        ):
            if isinstance(clip, Clip):
                file = io.BytesIO()
                strip = np.concatenate(list(clip.frames), axis=1)
                Image.fromarray(strip).save(file, "JPEG", quality=_QUALITY, optimize=True)
            sheets[keys[clip.index]] = file.getvalue() if isinstance(clip, Clip) else clip.reason
    return sheets


Drawn = dict[tuple[str, str], list[Question]]


def samples(
    rows: Sequence[Question],
    count: int,
    seed: int,
    clips: pl.DataFrame | None,
    videos: str | None,
    texts: Mapping[str, str],
) -> list[AuditedPair]:
    """Return `count` pairs, each in one of its two orders, with contact sheets and descriptions.

    clips: key, video, start and end of the clips of a store; videos: their folder; without either,
    no pictures.
    """
    pairs: dict[frozenset[str], Drawn] = {}
    for row in rows:
        of_pair = pairs.setdefault(frozenset((row.reference, row.candidate)), {})
        of_pair.setdefault((row.reference, row.candidate), []).append(row)
    rng = generator(seed, "audited pairs")
    chosen = [list(pairs.values())[place] for place in sorted(rng.permutation(len(pairs))[:count])]
    drawn = dict(list(orders.items())[rng.integers(len(orders))] for orders in chosen)
    sheets: dict[str, bytes | str] = {}
    if clips is not None and videos is not None:
        names = {clip for pair in drawn for clip in pair}
        complete = pl.all_horizontal(pl.col("video", "start", "end").is_not_null())
        sheets = contact_sheets(clips.filter(pl.col("key").is_in(names), complete), Path(videos))
    missing = (
        "no picture: give --store and --videos"
        if not sheets
        else "the store does not know this clip"
    )
    return [
        AuditedPair(
            a,
            b,
            questions,
            (sheets.get(a, missing), sheets.get(b, missing)),
            (texts.get(a, ""), texts.get(b, "")),
        )
        for (a, b), questions in drawn.items()
    ]


class _Type(BaseModel, strict=True):
    written: int
    kept: int
    dropped: dict[str, int]


class _PairQARecord(BaseModel, strict=True):
    pairs: int
    undescribed: int
    types: dict[str, _Type]
    examples: dict[str, list[str]]
    provenance: Any


def read_record(path: Path) -> dict[str, Any] | None:
    """Return the record of stepdiff annotate pairqa about the PairQA file `path`, None if it has
    none."""
    record = path.with_suffix(".record.json")
    if not record.exists():
        return None
    where, advice = (
        f"{record}: not a record of stepdiff annotate pairqa (",
        "); run that again, or remove it",
    )
    return checked(_PairQARecord.model_validate_json, read_text(record), where, advice).model_dump()
