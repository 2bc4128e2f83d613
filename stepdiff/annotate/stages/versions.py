"""Versions of a stage's output: one folder for all answers that were made the same way.

STORE/annotations/STAGE/VERSION/
    provenance.json            what made it; VERSION is the beginning of its sha256
    <shard>.parquet            key, kind, text, provenance, as heads.data.clips reads them
    failures/<shard>.parquet   key, reason
    lock.json                  held by the run that writes
"""

import hashlib
import json
from collections.abc import Mapping
from typing import Any

import polars as pl

from stepdiff.common.errors import StepDiffError
from stepdiff.common.io import sealed as table
from stepdiff.common.io.files import Place, listed, write_bytes
from stepdiff.common.io.sealed import BLANK
from store import Store
from store.format.layout import read_json, write_json
from store.io.status import REASONS

SCHEMA = dict.fromkeys(("key", "kind", "text", "provenance"), pl.String)
_DIGITS = 16


class Version:
    """One version of a stage, which may not exist yet."""

    def __init__(self, store: Store, stage: str, provenance: Mapping[str, Any]) -> None:
        self.stage, self.provenance = stage, dict(provenance)
        self.line = json.dumps(self.provenance, sort_keys=True, ensure_ascii=False)
        """the provenance as the rows carry it"""
        self.name = hashlib.sha256(self.line.encode()).hexdigest()[:_DIGITS]
        self.folder: Place = store.path / "annotations" / stage / self.name

    def create(self) -> None:
        if not (self.folder / "provenance.json").exists():
            write_json(self.folder / "provenance.json", {"provenance": self.provenance, "seal": BLANK})

    def shard(self, number: int) -> pl.DataFrame:
        """Return the rows of a shard: key, kind, text, provenance."""
        return _read(self.folder / _name(number), SCHEMA)

    def shard_failures(self, number: int) -> pl.DataFrame:
        """Return key and reason of the failures in a shard that were not answered later."""
        failed = _read(self.folder / "failures" / _name(number), REASONS)
        return failed.join(self.shard(number), on="key", how="anti")

    def write(self, number: int, rows: pl.DataFrame, failed: pl.DataFrame) -> None:
        for folder, frame in ((self.folder, rows), (self.folder / "failures", failed)):
            path = folder / _name(number)
            if frame.height or path.exists():
                write_bytes(path, table.encode(frame))

    def shard_texts(self, number: int, kind: str) -> dict[str, str]:
        """Return key and text of the answers of one kind in a shard."""
        rows = self.shard(number).filter(pl.col("kind") == kind)
        return dict(zip(rows["key"], rows["text"], strict=True))

    def texts(self, kind: str) -> dict[str, str]:
        """Return key and text of all answers of one kind."""
        shards = map(table.read, listed(self.folder, "*.parquet"))
        rows = pl.concat([pl.DataFrame(schema=SCHEMA), *shards]).filter(pl.col("kind") == kind)
        return dict(zip(rows["key"], rows["text"], strict=True))


def versions(store: Store, stage: str) -> list[Version]:
    """Return the existing versions of a stage. StepDiffError: the provenance of one is damaged."""
    existing = []
    for path in listed(store.path / "annotations" / stage, "*/provenance.json"):
        try:
            if not isinstance(provenance := read_json(path)["provenance"], dict):
                raise TypeError(f"{type(provenance).__name__}, not an object")
            version = Version(store, stage, provenance)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            raise StepDiffError(f"{path}: holds no provenance ({error!r}); restore it, or remove its folder") from None
        if path.parent.name != version.name:
            raise StepDiffError(f"{path}: is that of version {version.name}; restore it, or remove its folder")
        existing.append(version)
    return existing


def chosen(store: Store, stage: str, name: str | None) -> Version:
    """Return the version whose name begins with `name`, or the only one. StepDiffError: none or several match."""
    existing = versions(store, stage)
    matching = [version for version in existing if version.name.startswith(name or "")]
    if len(matching) == 1:
        return matching[0]
    if not existing:
        raise StepDiffError(f"{store.path}: no {stage} in it yet; run stepdiff annotate {stage.partition('-')[0]}")
    raise StepDiffError(
        f"{store.path}: {len(matching)} versions of {stage}{f' begin with {name!r}' if name else ''}; name one of "
        f"{', '.join(version.name for version in existing)} (their provenance.json says what made them)"
    )


def _name(number: int) -> str:
    return f"{number:06d}.parquet"


def _read(path: Place, schema: Mapping[str, Any]) -> pl.DataFrame:
    return table.read(path) if path.exists() else pl.DataFrame(schema=schema)
