"""The mark in tables of a row whose head was trained on clips or videos of its test set, and its footnote.

Guarantees
- scores and tables made from predictions find the counts in the score record next to them
"""

import json
from pathlib import Path
from typing import Any

from common.errors import StepDiffError

MARK = "‡"
"""follows the name of such a method"""


def footnote(counts: dict[str, Any]) -> str:
    """Return the footnote of a row that has the MARK."""
    return (
        f"{counts['clips_of_videos']} of {counts['of_clips']} test clips are from videos that trained this head, "
        f"{counts['clips']} trained it themselves"
    )


def seen_counts(predictions: str) -> dict[str, Any] | None:
    """Return the counts in the score record next to a file of predictions; None if the head has seen no clip.

    Raises:
        StepDiffError: the file next to it is not a score record.
    """
    path = Path(predictions).with_suffix(".scores.json")
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):  # the second: predictions in an archive
        return None
    except (OSError, ValueError) as error:
        raise StepDiffError(f"{path}: not a score record of heads.evaluate ({error}); evaluate again") from error
    return marked(record)


def marked(record: Any) -> dict[str, Any] | None:
    """Return the counts of a score record whose row has the MARK, else None."""
    counts = record.get("seen") if isinstance(record, dict) else None
    return counts if isinstance(counts, dict) and counts.get("clips_of_videos") else None
