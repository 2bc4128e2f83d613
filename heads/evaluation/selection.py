"""Selection of test-set rows: a named subset, and the rows whose clips are present.

Guarantees
- rows keep the order of the test set
- every name selects a row, or is refused
- names of rows are not read as a file's name, even if such a file exists
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
    """Return the names of a subset, separated by commas, or else the lines of a file.

    Raises:
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
    except OSError:  # no file, or too long for a file's name
        pass
    if not names:
        raise StepDiffError(f"{subset or 'subset'}: no names; give categories, videos or reference clips")
    unknown = sorted(set(names) - known)
    if unknown:
        raise StepDiffError(
            f"subset: {unknown[0]!r} is not a category, reference video or reference clip of the test set"
            + (f" ({len(unknown)} such names)" if len(unknown) > 1 else "")
        )
    return names


def _stripped(names: Sequence[str]) -> list[str]:
    return [name.strip() for name in names if name.strip()]


def select(rows: Sequence[AnyRow], names: Collection[str]) -> list[AnyRow]:
    """Return the rows whose category, reference video or reference clip is among the names."""
    return [row for row in rows if _names(row).intersection(names)]


def _names(row: Row) -> set[str]:
    """Return the names that select a row. A DiffMCQ row's reference is its answer's."""
    clip = row.answer[0] if isinstance(row, DiffMCQ) else row.reference
    return {row.category, reference_video(row), clip}


def absent_clips(rows: Sequence[Row], store: Store, view: str | None, texts: ClipTexts | None = None) -> list[str]:
    """Return clips of the rows, each once, that are not in the catalog, or lack features in `view`, or lack a text."""
    clips = list(dict.fromkeys(clip for row in rows for clip in clips_of(row)))
    places = np.asarray(store.catalog("clips").rows(clips))
    present = places >= 0
    if view is not None:
        present[present] = store.view("clips", view).status()[places[present]] == OK
    if texts is not None:
        present &= texts.has(clips)
    return [clip for clip, is_present in zip(clips, present, strict=True) if not is_present]
