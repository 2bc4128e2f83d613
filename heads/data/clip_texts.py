"""Texts about clips in one sealed Parquet file, or in a folder of them.

    key          clip id
    kind         sort of text: "action", "objects", "step description" of annotate, or a captioner's
                 name
    text         the text
    provenance   one line of JSON: model, sha256 of its weights, view, prompt

All columns are strings; a clip has at most one text of a kind.

Texts that others publish are read as they are: a .json file with one object {clip: text}, or a
folder of CLIP.txt.

Guarantees
- a file that is damaged, lacks a column or has two texts of a kind for a clip is refused
- a folder of files reads as one file with all their rows
"""

import json
from collections.abc import ItemsView, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import sealed as table
from stepdiff_core.io.files import write_bytes
from stepdiff_core.io.jsonl import parse_object

COLUMNS = ("key", "kind", "text", "provenance")


class ClipTexts:
    """The texts of one kind. StepDiffError: no such file or kind, or an invalid file."""

    def __init__(self, path: str | Path, kind: str | None = None) -> None:
        """path: a file, or a folder of them as a stage of annotate writes it; kind: None for the
        only one."""
        frame = _frame(Path(path))
        kinds = sorted(frame["kind"].unique())
        if kind is None and len(kinds) == 1:
            kind = kinds[0]
        if kind not in kinds:
            problem = "several kinds of text" if kind is None else f"no texts of kind {kind!r}"
            raise StepDiffError(
                f"{path}: holds {problem}; give --kind, one of "
                f"{', '.join(map(repr, kinds)) or 'none'}"
            )
        rows = frame.filter(pl.col("kind") == kind)
        twice = rows["key"].filter(rows["key"].is_duplicated())
        if len(twice):
            raise StepDiffError(f"{path}: two texts of kind {kind!r} for {twice[0]}; keep one")
        self.path, self.kind = path, kind
        self.provenance = sorted(rows["provenance"].drop_nulls().unique())
        """the distinct provenances of the texts"""
        self.texts: dict[str, str] = dict(zip(rows["key"], rows["text"], strict=True))
        """clip id -> its text"""

    def has(self, keys: Sequence[str]) -> np.ndarray:
        """Return bool [K]: whether each clip has a text."""
        return np.array([key in self.texts for key in keys], bool)

    def check(self, keys: Sequence[str]) -> None:
        """Raise StepDiffError for the first clip without a text."""
        for key in keys:
            if key not in self.texts:
                raise StepDiffError(
                    f"{key}: no text of kind {self.kind!r} in {self.path}; describe it, or pass "
                    "--skip-missing"
                )

    def items(self) -> ItemsView[str, str]:
        """Return clip id and text of every clip that has one."""
        return self.texts.items()


def write_texts(
    path: str | Path, kind: str, texts: Mapping[str, str], provenance: Mapping[str, Any]
) -> None:
    """Write a file of texts. texts: clip id -> text; provenance: their source, for JSON."""
    line = json.dumps(provenance, sort_keys=True)
    rows = [(key, kind, text, line) for key, text in texts.items()]
    frame = pl.DataFrame(rows, schema=dict.fromkeys(COLUMNS, pl.String), orient="row")
    write_bytes(Path(path), table.encode(frame))


def _frame(path: Path) -> pl.DataFrame:
    """Return the rows of a file or folder of texts."""
    if path.suffix == ".json":
        try:
            texts = parse_object(path.read_bytes())
        except OSError as error:
            raise StepDiffError(
                f"{path}: cannot be read ({error.strerror}); correct --texts"
            ) from error
        except StepDiffError as error:
            raise StepDiffError(f"{path}: {error}") from error
        return _published(path, texts)
    if not path.is_dir():
        return _read(path)
    if files := sorted(path.glob("*.parquet")):
        return pl.concat(map(_read, files))
    if texts := {file.stem: _text(file) for file in sorted(path.glob("*.txt"))}:
        return _published(path, texts)
    raise StepDiffError(
        f"{path}: holds no Parquet file of texts and no CLIP.txt; name a version's folder in "
        "STORE/annotations"
    )


def _published(path: Path, texts: Mapping[str, Any]) -> pl.DataFrame:
    if not texts or not all(isinstance(text, str) for text in texts.values()):
        raise StepDiffError(
            f"{path}: not one object {{clip: text}} with at least one text; correct the file"
        )
    rows = [(key, "text", text, None) for key, text in texts.items()]
    return pl.DataFrame(rows, schema=dict.fromkeys(COLUMNS, pl.String), orient="row")


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise StepDiffError(
            f"{path}: not a text in UTF-8 ({error}); correct or remove it"
        ) from error


def _read(path: Path) -> pl.DataFrame:
    """Read the four columns of a file. StepDiffError: it is invalid."""
    frame = table.read(path)
    odd = [name for name in COLUMNS if frame.schema.get(name) != pl.String]
    if odd:
        raise StepDiffError(
            f"{path}: its column {odd[0]} is missing or not of strings; it needs "
            f"{', '.join(COLUMNS)}"
        )
    return frame.select(COLUMNS)
