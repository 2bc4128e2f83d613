"""The disk space and hours that a view of n rows takes, before it is computed.

Guarantees
- planned sizes equal a store's sizes to the byte
"""

import math
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from stepdiff_core.cli.options import at_least
from stepdiff_core.errors import StepDiffError
from store.feature_store import Store, shard_rows
from store.format.layout import MERGED_SHARDS, stored_features
from store.format.pool import TOKENS, pool_of, pooled_view
from store.io.records import all_writes
from store.provenance import Feature, Provenance, with_dtype
from store.verbs.options import StorePlanOptions
from store.view import OK

_FILES = {"video": pl.String, "video_bytes": pl.Int64}
"""columns of the catalog"""
_MOST_COUNTED = 1e12  # rows of a shard, seconds for them
_ROWS_READ = 64
_BYTES_READ = 2**28
"""of rows that are read to measure the rate, at most, unless one row has more"""


@dataclass(frozen=True)
class StoredAs:
    """The recommended setting of an encoder, and its cost in accuracy."""

    pool: int = 1
    dtype: str = "int8"
    cost: str = "accuracy not measured: compare both settings on your val split"
    bytes_per_row: float = 0.0


@dataclass(frozen=True)
class KnownEncoder:
    """Features of an encoder of `featurize`: tokens in the dtype of the user's choice, others in
    float32."""

    name: str
    """as in the provenance"""
    entity: str
    features: dict[str, tuple[int, ...]]
    """feature -> shape of a row"""
    frames: str = "8"
    """of a clip, by default"""
    setting: StoredAs = field(default_factory=StoredAs)
    statistics: tuple[int, ...] = ()
    """shape of the statistics of early maps, where featurize --statistics stores them"""


ENCODERS = {
    "efficientnet-lite0": KnownEncoder(
        "efficientnet-lite0",
        "clips",
        {"tokens": (392, 1280), "embedding": (1280,)},
        setting=StoredAs(
            7,
            cost=(
                "on the sample world, word evidence has DiffMCQ 0.742 and DiffRank 0.579; with all "
                "tokens in float16 0.741 and 0.578"
            ),
        ),
        statistics=(4, 256),
    ),
    "mpnet-base": KnownEncoder("mpnet-base", "texts", {"embedding": (768,)}),
    "clip-vit-large-patch14": KnownEncoder(
        "hf", "clips", {"tokens": (2048, 1024), "frame_embedding": (8, 768), "embedding": (768,)}
    ),
    "internvideo-mm-b16": KnownEncoder(
        "internvideo-mm-b16", "clips", {"tokens": (1568, 768), "embedding": (512,)}
    ),
    "internvideo-mm-l14": KnownEncoder(
        "internvideo-mm-l14", "clips", {"tokens": (2048, 1024), "embedding": (768,)}
    ),
}


@dataclass(frozen=True)
class ViewSizes:
    """Disk space of a view with all rows finished."""

    dtype: str
    """of its largest feature"""
    bytes_per_row: float
    bytes: int
    """of shard files, checksums and status"""
    rows_per_shard: int
    shards: int
    files: int
    """arrays and shards, metadata, and the record of each shard's writer"""
    compacted: int
    """files after `store compact`"""


def plan(options: StorePlanOptions) -> dict[str, Any]:
    """Return the plan. StepDiffError if options do not fit, or an encoder, view or rate is missing.

    It has `sizes` for each dtype, the chosen one included; `hours` for each device, empty if no
    rate was measured; `video_bytes` of the video files for each clip, in the store of --like or
    --measured-in; the recommended `setting`, None if the encoder's features have one setting, or
    are pooled already; `statistics_bytes` of all rows with statistics of early maps alone, None if
    the encoder has none or is not known; `read_mb_per_second`, given or measured by reading rows of
    that store; `caching` for each device, empty if encoding or reading was not measured. Unknown
    values are None.
    """
    if not options.clips >= 1 or options.clips % 1:
        raise StepDiffError(f"--clips {options.clips} is not a whole number of at least 1")
    rows = int(options.clips)
    at_least(options, workers=1)
    if (options.encoder is None) == (options.like is None):
        raise StepDiffError(f"give either --encoder ({', '.join(ENCODERS)}) or --like STORE/VIEW")
    if options.like:
        path = Path(options.like)
        view = Store.open(path.parent).view(options.entity, path.name)
        entity, made, features = view.entity, view.provenance, dict(view.features)
    else:
        if (encoder := ENCODERS.get(str(options.encoder))) is None:
            names = ", ".join(ENCODERS)
            raise StepDiffError(
                f"encoder {options.encoder!r} is not known: give one of {names}, or --like"
            )
        entity, made = encoder.entity, Provenance(encoder.name, "", "", encoder.frames, "", {})
        features = {name: Feature(shape, "float32") for name, shape in encoder.features.items()}
    setting = _setting(made, features)
    statistics = next(
        (each.statistics for each in ENCODERS.values() if each.name == made.encoder), ()
    )
    if options.pool != 1:
        _, features, _ = pooled_view(made, features, options.pool)
    dtypes: tuple[str, ...] = ("float32", "float16", "int8")
    if options.encoder and TOKENS not in features:
        dtypes = ("float32",)  # featurize always stores embeddings so
    source = options.measured_in or (str(Path(options.like).parent) if options.like else None)
    planned = [
        sizes(
            rows,
            stored := with_dtype(features, dtype),
            dtype,
            shard_rows(stored, options.shard_size),
        )
        for dtype in dtypes
    ]
    chosen = next((size for size in planned if size.dtype == options.dtype), planned[0])
    hours = _hours(options, rows, entity, made, source)
    rate = options.read_mb_per_second or (
        read_rate(Store.open(source), entity, made) if source else None
    )
    return {
        "rows": rows,
        "entity": entity,
        "encoder": made.encoder,
        "features": {name: list(feature.shape) for name, feature in features.items()},
        "dtype": chosen.dtype,
        "workers": options.workers,
        "sizes": [asdict(size) for size in planned],
        "hours": hours,
        "video_bytes": video_bytes(Store.open(source)) if source and entity == "clips" else None,
        "setting": setting and asdict(setting),
        "statistics_bytes": sizes(rows, {"": Feature(statistics, "float32")}, "float32").bytes
        if statistics
        else None,
        "read_mb_per_second": rate,
        "caching": [caching(hour, chosen.bytes_per_row, rate) for hour in hours] if rate else [],
    }


def _setting(made: Provenance, features: Mapping[str, Feature]) -> StoredAs | None:
    """Return the recommended setting of an encoder with its bytes."""
    if TOKENS not in features or pool_of(made) != 1:
        return None
    setting = next(
        (encoder.setting for encoder in ENCODERS.values() if encoder.name == made.encoder),
        StoredAs(),
    )
    if setting.pool != 1:
        _, features, _ = pooled_view(made, features, setting.pool)
    size = sizes(1, with_dtype(features, setting.dtype), setting.dtype, 1)
    return replace(setting, bytes_per_row=size.bytes_per_row)


def caching(hours: dict[str, Any], bytes_per_row: float, mb_per_second: float) -> dict[str, Any]:
    """Return whether reading features of a clip of `bytes_per_row` takes less time than encoding
    it, by one worker.

    From `reads` on, encoding once, writing (counted as a read) and reading takes less time than
    encoding for each read; None: never.
    """
    encode, read = 1 / hours["clips_per_second"], bytes_per_row / mb_per_second / 1e6
    saved = encode - read
    reads = math.floor((encode + read) / saved) + 1 if saved > 0 else None
    return {
        "device": hours["device"],
        "encode_seconds": encode,
        "read_seconds": read,
        "reads": reads,
    }


def read_rate(store: Store, entity: str, made: Provenance) -> float | None:
    """Return the MB/s at which rows of a view of the encoder are read here, single and spread;
    None: it has none."""
    for view in (store.view(entity, name) for name in store.views(entity)):
        if view.provenance.encoder != made.encoder or not len(
            rows := np.flatnonzero(view.status() == OK)
        ):
            continue
        size = sum(feature.row_bytes for feature in stored_features(view.features).values())
        count = max(min(_ROWS_READ, len(rows), _BYTES_READ // size), 1)
        spread = rows[np.linspace(0, len(rows) - 1, count).astype(np.int64)]
        begin = time.monotonic()
        for name, feature in view.features.items():
            view.read(name, spread, dtype="float32" if feature.dtype == "int8" else None)
        return count * size / (time.monotonic() - begin) / 1e6
    return None


def video_bytes(store: Store) -> float | None:
    """Return the bytes of a store's video files, each once, divided by the clips that they have;
    None: unknown."""
    files, clips = pl.DataFrame(schema=_FILES), 0
    for block in store.catalog("clips").blocks(files):
        sized = block.drop_nulls("video_bytes").select(*_FILES)
        files, clips = pl.concat([files, sized]).unique("video"), clips + sized.height
    return float(files["video_bytes"].sum()) / clips if clips else None


def sizes(
    rows: int, features: Mapping[str, Feature], dtype: str, rows_per_shard: int | None = None
) -> ViewSizes:
    """Return the disk space of `rows` rows of `features`."""
    a_shard = rows_per_shard or shard_rows(features)
    shards = math.ceil(rows / a_shard)
    stored = stored_features(features)
    index = a_shard * 16 + 4  # of each shard file: offset and length of every row, and their crc32c
    sums, status = a_shard * len(stored) * 4 + 4, a_shard + 4
    total = rows * sum(feature.row_bytes for feature in stored.values())
    total += shards * (len(stored) * index + sums + status)
    return ViewSizes(
        dtype=dtype,
        bytes_per_row=total / rows,
        bytes=total,
        rows_per_shard=a_shard,
        shards=shards,
        # a shard: its arrays, checksum, status, what wrote it, its lock; a zarr.json for each array
        # and the group
        files=shards * (len(stored) + 4) + len(stored) + 3,
        compacted=shards * (len(stored) + 2) + math.ceil(shards / MERGED_SHARDS) + len(stored) + 3,
    )


def measured_rates(
    store: Store, entity: str, encoder: str, weights: str = ""
) -> dict[str, tuple[int, float]]:
    """Return, by device, the rows of all views of an encoder and the seconds that one worker took
    for them.

    With `weights`, a sha256, only of views with those: models of one encoder may differ in size.
    """
    rates: dict[str, tuple[int, float]] = {}
    for name in store.views(entity):
        view = store.view(entity, name)
        made = view.provenance
        if made.encoder != encoder or weights not in ("", made.weights):
            continue
        for _, writes in all_writes(view.paths, view.rows_per_shard):
            for write in writes:
                measures: list[Any] = [
                    write.info.get(name) for name in ("device", "rows", "seconds")
                ]
                device, rows, seconds = measures
                if isinstance(device, str) and _is_count(rows) and _is_count(seconds):
                    before = rates.get(device, (0, 0.0))
                    rates[device] = before[0] + rows, before[1] + seconds
    return rates


def _is_count(value: Any) -> bool:
    return type(value) in (int, float) and 0 < value < _MOST_COUNTED


def _hours(
    options: StorePlanOptions, rows: int, entity: str, made: Provenance, where: str | None
) -> list[dict[str, Any]]:
    """Return the hours at the given rate (of device `worker`), or at the rates of each device that
    a store records."""
    if (rate := options.clips_per_second) is not None:
        measured = [(rate, "worker", "as given")]
    else:
        rates = (
            {}
            if where is None
            else measured_rates(Store.open(where), entity, made.encoder, made.weights)
        )
        if options.measured_in and not rates:
            raise StepDiffError(
                f"{where} has no measured rate of {made.encoder} on {entity}: run python -m "
                "featurize first"
            )
        measured = [
            (count / seconds, device, f"{count:,} {entity} in {seconds:,.1f} s in {where}")
            for device, (count, seconds) in sorted(rates.items())
        ]
    return [
        {
            "clips_per_second": rate,
            "device": device,
            "measured": source,
            "worker_hours": rows / rate / 3600,
            "hours": rows / rate / 3600 / options.workers,
        }
        for rate, device, source in measured
    ]
