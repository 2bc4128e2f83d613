"""CLIP's tokenizer out of a folder: tokenizer.json, or vocab.json and merges.txt. Nothing else of the folder is read.

Guarantees
- both kinds of files give the same ids and the same digest (`test_both_kinds_of_tokenizer_files_give_the_same_ids`)
- files that are missing, damaged or another model's are refused (`test_a_wrong_tokenizer_is_refused`)
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common.errors import StepDiffError

_START, _END = "<|startoftext|>", "<|endoftext|>"
_WANTED = "CLIP's tokenizer.json, or its vocab.json and merges.txt"


@dataclass(frozen=True)
class Tokenizer:
    """CLIP's byte-pair encoding."""

    digest: str
    """16 hex digits of the vocabulary and its merges"""
    encode: Any
    """texts -> `input_ids`, as a tokenizer of transformers does it"""


def load_tokenizer(folder: Path, vocabulary: int) -> Tokenizer:
    """The tokenizer of a folder, of `vocabulary` ids, whose last two start and end a text.

    Raises:
        StepDiffError: its files are missing, damaged, or another model's.
    """
    from transformers import CLIPTokenizer

    try:
        ids, merges = _read(folder)
    except (ValueError, KeyError, TypeError) as problem:
        raise StepDiffError(f"the tokenizer files in {folder} are damaged ({problem!r}): give {_WANTED}") from None
    if len(ids) != vocabulary or (ids.get(_START), ids.get(_END)) != (vocabulary - 2, vocabulary - 1):
        raise StepDiffError(
            f"the tokenizer in {folder} is not CLIP's: it has {len(ids)} ids with {_END} at {ids.get(_END)}, "
            f"where {vocabulary} with {_END} last are needed: give {_WANTED}"
        )
    unknown = [pair for pair in merges if not {*pair, "".join(pair)} <= ids.keys()]
    if unknown:
        raise StepDiffError(f"the tokenizer in {folder} merges {unknown[0]}, not in its vocabulary: give {_WANTED}")
    digest = hashlib.sha256(json.dumps([ids, merges], sort_keys=True).encode()).hexdigest()[:16]
    # the annotation of `merges` leaves out the pairs that it takes
    return Tokenizer(digest, CLIPTokenizer(vocab=ids, merges=merges))  # type: ignore[arg-type]


def _read(folder: Path) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Every token's id, and the pairs that are merged, first the first."""
    if (whole := folder / "tokenizer.json").is_file():
        model = json.loads(whole.read_text("utf-8"))["model"]
        ids, pairs = model["vocab"], model["merges"]
    elif (table := folder / "vocab.json").is_file() and (list_ := folder / "merges.txt").is_file():
        ids = json.loads(table.read_text("utf-8"))
        pairs = [line for line in list_.read_text("utf-8").split("\n") if line and not line.startswith("#version")]
    else:
        raise StepDiffError(f"texts need a tokenizer, and {folder} has none: put {_WANTED} there")
    merges = [tuple(pair.split(" ") if isinstance(pair, str) else pair) for pair in pairs]
    if not all(len(pair) == 2 for pair in merges):
        raise ValueError("a merge of other than two tokens")
    return dict(ids), merges
