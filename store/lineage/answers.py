"""The source of rows and the heads trained on them; the training data of a head.

Guarantees
- a head whose record is missing or damaged is listed as unknown, never left out
"""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import BaseModel

from stepdiff_core.checked import checked
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io.files import place, write_changed
from stepdiff_core.io.sealed import BLANK, is_sealed
from store.feature_store import Store
from store.format.layout import encode_json
from store.io.reader import FAILED, OK
from store.io.records import writes_of_shard
from store.lineage import trained_on
from store.provenance import Provenance
from store.snapshots.snapshot import figures_of
from store.verbs.options import LineageOptions
from store.view import View

RECORD, SUMS = "lineage.json", "SHA256SUMS"
_DEPTH = 2  # of folders in which runs are looked for
_MOST_BYTES = 64 * 2**20


def lineage(options: LineageOptions) -> dict[str, Any]:
    """Return `path`, and the known facts about `rows` and `heads`, in the order of the names.

    Of a row: key, row, entity, metadata; `forgotten`, the reason; `views`, with status, provenance,
    and when and on what it was written; `snapshots` in which it is finished; `trained`, the runs
    that may have drawn it; `unknown`, runs that do not state, or not completely, their training
    data. Of a head: `run`; `store` with snapshot and commits; `reads`, the provenance of each view;
    `clips` that may have trained it; fingerprints of other `data`; the runs that it `starts_from`,
    the latest first. None: not recorded. StepDiffError: a name is neither a key nor a run.
    """
    store = Store.open(options.path)
    runs = [Path(name) for name in options.names if (Path(name) / RECORD).is_file()]
    keys = [name for name in options.names if Path(name) not in runs]
    rows = store.catalog(options.entity).rows(keys)
    if (rows < 0).any():
        unknown = keys[int(np.argmax(rows < 0))]
        raise StepDiffError(
            f"{unknown!r} is no key of the {options.entity} of {store.path}, and no folder of a run"
        )
    answers = list(_rows(store, options, rows, keys))
    return {"path": options.path, "rows": answers, "heads": [_head(run) for run in runs]}


def _rows(
    store: Store, options: LineageOptions, rows: np.ndarray, keys: list[str]
) -> Iterator[dict[str, Any]]:
    catalog, entity = store.catalog(options.entity), options.entity
    about = {row.pop("row"): row for row in catalog.select(rows).to_dicts()}
    gone = dict(store.forgotten(entity).select("row", "reason").iter_rows())
    views = [store.view(entity, name) for name in store.views(entity)]
    named = _named(store, entity, rows)
    trained, unknown = dict[str, list[str]](), list[str]()
    if entity == "clips" and (options.heads is not None or not store.path.remote):
        heads = (
            Path(str(store.path)).absolute().parent
            if options.heads is None
            else Path(options.heads)
        )
        trained, unknown = _trained(heads, keys)
    for key, row in zip(keys, rows.tolist(), strict=True):
        metadata = {
            name: value for name, value in about[row].items() if name != "key" and value is not None
        }
        reason = (gone[row] or "") if row in gone else None
        absent = "absent" if reason is None else "forgotten"
        states = [_state(view, row, absent) for view in views]
        yield {
            "key": key,
            "row": row,
            "entity": entity,
            "metadata": metadata,
            "forgotten": reason,
            "views": states,
            "snapshots": named[row],
            "trained": trained.get(key, []),
            "unknown": unknown,
        }


def _state(view: View, row: int, absent: str) -> dict[str, Any]:
    """Return status, provenance and record of one row of a view; `absent` is the word for a row
    without features."""
    rows = np.array([row])
    status = int(view.status(rows)[0])
    state: dict[str, Any] = {
        "view": view.name,
        "status": {OK: "ok", FAILED: "failed"}.get(status, absent),
        "provenance": view.provenance.as_dict(),
        "written": None,
    }
    shard = row // view.rows_per_shard
    for write in writes_of_shard(view.paths, shard, view.rows_per_shard):
        if status in (OK, FAILED) and row in write.rows:
            state["written"] = {"date": write.date, **write.info}
    if status == FAILED:
        state["reason"] = view.failures(rows)["reason"][0]
    return state


def _named(store: Store, entity: str, rows: np.ndarray) -> dict[int, list[str]]:
    """Return for each row the snapshots in which it is finished."""
    named: dict[int, list[str]] = {row: [] for row in rows.tolist()}
    for name in store.snapshots():
        then = Store.open(store.path, at=name)
        ok = np.zeros(len(rows), bool)
        for view in then.views(entity):
            ok |= then.view(entity, view).status(rows) == OK
        for row in rows[ok].tolist():
            named[row].append(name)
    return named


def _trained(folder: Path, keys: list[str]) -> tuple[dict[str, list[str]], list[str]]:
    """Return for each key the runs in `folder` that may have drawn it, and the runs that do not
    state it."""
    hashes, unknown = trained_on.hashes(keys), list[str]()
    drawn: dict[str, list[str]] = {key: [] for key in keys}
    levels = ("/".join(["*"] * depth + [RECORD]) for depth in range(_DEPTH + 1))
    for run in sorted({path.parent for level in levels for path in folder.glob(level)}):
        try:
            record = read_record(run).get("trained_on")
            if record is None:
                raise StepDiffError("it states no clips")
            trained_on.check(run, record)
            there = trained_on.contained(hashes, trained_on.blocks(run, "clips"))
            if record.get("unrecorded"):
                unknown.append(
                    f"{run} (it started from {', '.join(record['unrecorded'])}, which states no "
                    "clips)"
                )
        except StepDiffError as error:
            unknown.append(f"{run} ({error})")
            continue
        for number in np.flatnonzero(there).tolist():
            drawn[keys[number]].append(str(run))
    return drawn, unknown


def _head(run: Path) -> dict[str, Any]:
    record = read_record(run)
    before, init = [], record.get("init")
    while isinstance(init, dict):
        before.append(str(init.get("run")))
        init = init.get("init")
    trained = record.get("trained_on")
    clips = trained.get("clips") if isinstance(trained, dict) else None
    recorded = {
        "store": record.get("store"),
        "reads": record.get("reads") or {},
        "data": record.get("data") or {},
    }
    return {"run": str(run), **recorded, "clips": clips, "starts_from": before}


class _Store(BaseModel, strict=True):
    path: str
    at: str | None = None
    commits: dict[str, Any] = {}


class _TrainedOn(BaseModel, strict=True):
    sha256: str
    clips: int
    videos: int
    names: int
    unrecorded: list[str]


class _Record(BaseModel, strict=True, extra="allow"):
    """The parts of a run's lineage that readers rely on; it may be a stranger's."""

    reads: dict[str, dict[str, Any] | str] = {}
    store: _Store | None = None
    init: dict[str, Any] | None = None
    data: dict[str, str] = {}
    trained_on: _TrainedOn | None = None


def write_record(run: Path, record: dict[str, Any]) -> None:
    """Write the lineage of a run, with a checksum of itself."""
    write_changed(run / RECORD, [encode_json(record | {"seal": BLANK})])


def _is_summed(run: Path, data: bytes) -> bool:
    """Return whether SHA256SUMS of the run has this content of its record: earlier versions wrote
    no seal."""
    try:
        sums = place(run / SUMS).read_whole(_MOST_BYTES)
    except (OSError, StepDiffError):
        return False
    return f"{hashlib.sha256(data).hexdigest()}  {RECORD}".encode() in sums.splitlines()


def read_record(run: Path) -> dict[str, Any]:
    """Read the lineage of a run. StepDiffError: it is missing or damaged."""
    path = run / RECORD
    advice = "so it is unknown what the head was trained on; train again"
    try:
        data = place(path).read_whole(_MOST_BYTES)
        if not is_sealed(data) and not _is_summed(run, data):
            raise ValueError("its checksum differs, or it has none")
    except (OSError, ValueError) as error:
        raise StepDiffError(f"{path}: missing or damaged ({error}), {advice}") from None
    record = checked(_Record.model_validate_json, data, f"{path}: damaged (", f"), {advice}")
    for made in record.reads.values():
        if isinstance(made, dict):
            Provenance.from_dict(made)
    return {name: value for name, value in json.loads(data).items() if name != "seal"}


def read_of(store: Store, views: dict[str, str]) -> dict[str, Any]:
    """Return the record of the store by a training that reads these views (entity -> view).

    Its path, the snapshot's name (None: the live store), and the commit of each view.
    """
    commits = {
        f"{entity}/{name}": figures_of(store.view(entity, name)).commit
        for entity, name in views.items()
    }
    return {"path": str(store.path), "at": store.at, "commits": commits}
