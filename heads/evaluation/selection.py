"""Which rows of a test set are evaluated: those of a named subset, and those whose clips are there.

Guarantees
- rows keep the order of the test set
- every name selects a row, or is refused
- what names rows is no file's name, though there be such a file
"""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np

from common.errors import StepDiffError
from heads.data.clip_texts import ClipTexts
from store import Store
from store.view import OK
from tasks.testsets import DiffMCQ, Row, clips_of, reference_video

AnyRow = TypeVar("AnyRow", bound=Row)


def named(rows: Sequence[Row], subset: str) -> list[str]:
    """The names of a subset: what commas part, or the lines of a file where those are not all names of the rows.

    StepDiffError: no names, or one that selects none of the rows.
    """
    known = set().union(*map(_names, rows))
    names = _stripped(subset.split(","))
    if known.issuperset(names) and names:
        return names
    try:
        names = _stripped(Path(subset).read_text(encoding="utf-8-sig").split("\n"))
    except UnicodeDecodeError as error:
        raise StepDiffError(f"{subset}: not UTF-8 ({error.reason}); give a file of names, one a line") from error
    except OSError:  # no file, or longer than the name of one
        pass
    if not names:
        raise StepDiffError(f"{subset or 'subset'}: no names in it; give categories, videos or reference clips")
    unknown = sorted(set(names) - known)
    if unknown:
        raise StepDiffError(
            f"subset: {unknown[0]!r} is no category, reference video or reference clip of the test set"
            + (f" ({len(unknown)} such names)" if len(unknown) > 1 else "")
        )
    return names


def _stripped(names: Sequence[str]) -> list[str]:
    return [name.strip() for name in names if name.strip()]


def select(rows: Sequence[AnyRow], names: Collection[str]) -> list[AnyRow]:
    """The rows whose category, reference video or reference clip is named."""
    return [row for row in rows if _names(row).intersection(names)]


def _names(row: Row) -> set[str]:
    """What a row goes by. A DiffMCQ row's reference is its answer's."""
    clip = row.answer[0] if isinstance(row, DiffMCQ) else row.reference
    return {row.category, reference_video(row), clip}


def absent_clips(rows: Sequence[Row], store: Store, view: str | None, texts: ClipTexts | None = None) -> list[str]:
    """Clips of the rows that the catalog does not know or, given a view, that have no features in it or, given texts,
    of which there is none; each once."""
    clips = list(dict.fromkeys(clip for row in rows for clip in clips_of(row)))
    places = np.asarray(store.catalog("clips").rows(clips))
    there = places >= 0
    if view is not None:
        there[there] = store.view("clips", view).status()[places[there]] == OK
    if texts is not None:
        there &= texts.has(clips)
    return [clip for clip, is_there in zip(clips, there, strict=True) if not is_there]
