"""A run: what is asked for, what is missing, and the workers that do it.

Guarantees
- what is refused is refused before anything is written
- the store's lock is held for the whole run
- a run repeated does only what is missing, and where nothing is starts neither Ray nor encoder
- what the manifest tells anew of a clip (its split, its file, ...) the catalog tells from then on; not its interval
"""

import time
from pathlib import Path

import polars as pl

from featurize.cluster import connected, refuse_relative
from featurize.crew import Crew, crew_size, has_gpu
from featurize.encoders import NAMES as ENCODERS
from featurize.encoders import deciding
from featurize.errors import FeaturizeError
from featurize.manifest import Manifest, read_manifest
from featurize.options import Options
from featurize.plan import plan
from featurize.progress import progress, say
from featurize.summary import Summary, summarise
from featurize.task import Outcome, tasks
from featurize.videofiles import as_manifest
from featurize.worker import Equipment
from store import Catalog, Store, View
from store.remote import RemotePath, place
from weights import NAMES as WEIGHTS
from weights import fingerprint, resolve

BATCH = {"clips": 4, "texts": 128}
"""rows of a batch by default"""
_SAME = 1e-6
"""seconds that two equal times may differ by"""


def requested(options: Options) -> Manifest:
    """What the options ask for. FeaturizeError where they or the manifest are unusable."""
    if (options.manifest is None) == (not options.videos):
        raise FeaturizeError("give either --manifest FILE or video files")
    numbers = (options.workers, options.batch_size, options.frames)
    for name, number in zip(("--workers", "--batch-size", "--frames"), numbers, strict=True):
        if number is not None and number < 1:
            raise FeaturizeError(f"{name} {number} is too few: give 1 or more")
    named = [("video", video) for video in options.videos]
    if not isinstance(place(options.store), RemotePath):
        named.append(("--store", options.store))
    if options.manifest is not None:
        named.append(("--manifest", options.manifest))
    refuse_relative(named)
    if options.manifest is None:
        return as_manifest([Path(video).expanduser() for video in options.videos])
    return read_manifest(Path(options.manifest).expanduser(), options.column)


def run(options: Options, asked: Manifest) -> Summary:
    """Featurize what is missing of `asked`.

    Raises FeaturizeError, StoreError, WeightsError: the encoder, the store, the cluster or the weights
    cannot be used.
    """
    weights = _weights(options)
    store = _store(options.store)
    with store.lock(options.wait):
        _refuse_changed(store.catalog(asked.entity), asked)
        view = _finished_view(store, options, asked, weights)
        if view is not None:
            _tell_anew(store.catalog(asked.entity), asked)
            return summarise(store, view, asked)
        with connected(options.address) as joined:
            return _run(store, options, asked, joined)


def _store(path: str) -> Store:
    """The store, made where there is none; workers, who start elsewhere, find it by its path too."""
    where = place(path)
    return Store.open(where if isinstance(where, RemotePath) else where.expanduser().absolute(), create=True)


def _run(store: Store, options: Options, asked: Manifest, joined: bool) -> Summary:
    """The run on Ray, under the lock; `joined`: on a cluster that was there."""
    gpu = has_gpu(options.device, joined)
    count, cpus = crew_size(options.workers, asked.entity, gpu, joined)
    weights = options.weights
    if weights is not None and Path(weights).expanduser().exists():
        weights = str(Path(weights).expanduser().absolute())  # workers start elsewhere
    equipment = Equipment(
        options.encoder, weights, options.layer, options.device, cpus, options.frames, options.sampling
    )
    crew = Crew(equipment, gpu)
    provenance, features = crew.describe(asked.entity, options.dtype)
    view = store.create_view(asked.entity, options.view or options.encoder, provenance, features)
    catalog = store.catalog(asked.entity)
    catalog.append(asked.rows)
    _tell_anew(catalog, asked)
    view.resize()
    rows, status = catalog.rows(asked.rows["key"]), view.status()
    shards = plan(rows, status, view.rows_per_shard, options.retry_failed)
    batch = options.batch_size or BATCH[asked.entity]
    jobs = tasks(store, view, asked, shards, batch, threads=max(cpus - 1, 1))
    begin = time.monotonic()
    outcomes: list[Outcome] = []
    with progress(f"{options.encoder} on {asked.entity}", asked.entity, len(shards.rows)) as show:
        for outcome in crew.do(jobs, min(count, len(shards)), show):
            outcomes.append(outcome)
            if outcome.error:
                say(f"error: {outcome.error}")
    return summarise(store, view, asked, status, outcomes, time.monotonic() - begin)


def _weights(options: Options) -> Path:
    """The encoder's weights on this machine."""
    if options.encoder not in ENCODERS:
        raise FeaturizeError(f"no encoder named {options.encoder!r}: the encoders are {', '.join(ENCODERS)}")
    if options.weights is None and options.encoder not in WEIGHTS:
        raise FeaturizeError(f"encoder {options.encoder} has no weights of its own: give --weights, a folder or hub id")
    return resolve(options.weights or options.encoder)


def _finished_view(store: Store, options: Options, asked: Manifest, weights: Path) -> View | None:
    """The view, where it stands as the options want it and nothing is to do."""
    name = options.view or options.encoder
    chosen = (options.layer, options.frames, options.sampling)
    if chosen != (None,) * 3 or name not in store.views(asked.entity):
        return None
    view = store.view(asked.entity, name)
    made = view.provenance
    if (made.encoder, made.weights) != (options.encoder, fingerprint(deciding(options.encoder, weights))):
        return None
    if made.dtypes.get("tokens", options.dtype) != options.dtype:
        return None
    rows = store.catalog(asked.entity).rows(asked.rows["key"])
    if (rows < 0).any() or plan(rows, view.status(), view.rows_per_shard, options.retry_failed):
        return None
    return view


def _refuse_changed(catalog: Catalog, asked: Manifest) -> None:
    """FeaturizeError where a clip that the catalog has is now another interval."""
    times = ("key", "start", "end")
    known = catalog.frame(times)
    if not set(times) <= set(known.columns) & set(asked.rows.columns):
        return
    both = asked.rows.select(times).join(known, on="key", suffix="_known")
    moved = both.filter(
        ((pl.col("start") - pl.col("start_known")).abs() > _SAME)
        | ((pl.col("end") - pl.col("end_known")).abs() > _SAME)
    )
    if moved.height:
        clip = moved.row(0, named=True)
        raise FeaturizeError(
            f"clip {clip['key']!r} is {clip['start_known']:g} to {clip['end_known']:g} s in the store and "
            f"{clip['start']:g} to {clip['end']:g} s now: give the new interval an id of its own"
        )


def _tell_anew(catalog: Catalog, asked: Manifest) -> None:
    """The catalog tells what the manifest does."""
    if changed := catalog.update(asked.rows):
        say(f"{changed} {asked.entity} that the store has were told anew: the catalog follows the manifest")
