"""A tiny store with known values.

Clips `clip_0` to `clip_5`, with `video` "videos/clip_N.mp4", `start` 0.0, `end` 2.0, `step`
"crack", "whisk", "crack", ... and `split` "train" for the first four, else "test". Texts "crack",
"whisk", "pour", "bake".

| view | feature | row N |
| --- | --- | --- |
| clips `tiny` | `tokens` float16 [3, 4] | `tokens[n, d] = N + n / 4 + d / 16` |
| | `embedding` float32 [4] | 1 in channel N modulo 4, else 0 |
| clips `tiny-int8` | `tokens` int8 [3, 4] | `tokens[n] = [127, N, n, -N]`, every scale 1 |
| texts `tiny` | `embedding` float16 [4] | 1 in channel N, else 0 |

In both views of clips `clip_4` failed ("no video videos/clip_4.mp4") and `clip_5` is absent. Shards
have 4 rows. The encoder is `tiny`, its weights are 64 zeros.
"""

import os

import numpy as np
import polars as pl

from stepdiff_core.io.remote import RemotePath
from store import Feature, Provenance, Store, text_key

CLIPS, TEXTS = 6, ("crack", "whisk", "pour", "bake")
FAILED, ABSENT = 4, 5
"""rows of the views of clips"""
ROWS_PER_SHARD = 4


def tiny_store(path: str | os.PathLike[str] | RemotePath) -> Store:
    """Make the tiny store in `path`, a new folder or URL, and return it."""
    store = Store.open(path, create=True)
    names = [f"clip_{row}" for row in range(CLIPS)]
    clips = pl.DataFrame(
        {
            "key": names,
            "video": [f"videos/{name}.mp4" for name in names],
            "start": [0.0] * CLIPS,
            "end": [2.0] * CLIPS,
            "step": [TEXTS[row % 2] for row in range(CLIPS)],
            "split": ["train" if row < 4 else "test" for row in range(CLIPS)],
        }
    )
    texts = pl.DataFrame({"key": [text_key(text) for text in TEXTS], "text": list(TEXTS)})
    # the rows before the one that failed are finished
    row, token, channel = np.indices((FAILED, 3, 4))
    one_hot = np.eye(4, dtype=np.float32)
    floats = {"tokens": (row + token / 4 + channel / 16).astype(np.float32), "embedding": one_hot}
    levels = np.choose(channel, [127, row, token, -row]).astype(np.float32)
    tokens = {dtype: Feature((3, 4), dtype) for dtype in ("float16", "int8")}
    reasons = {names[FAILED]: f"no video videos/{names[FAILED]}.mp4"}
    features = {"tokens": tokens["float16"], "embedding": Feature((4,), "float32")}
    views: list[
        tuple[str, str, dict[str, Feature], list[str], dict[str, np.ndarray], dict[str, str]]
    ] = [
        ("clips", "tiny", features, names[:FAILED], floats, reasons),
        (
            "clips",
            "tiny-int8",
            {"tokens": tokens["int8"]},
            names[:FAILED],
            {"tokens": levels},
            reasons,
        ),
        (
            "texts",
            "tiny",
            {"embedding": Feature((4,), "float16")},
            texts["key"].to_list(),
            {"embedding": one_hot},
            {},
        ),
    ]
    with store.lock():
        store.catalog("clips").append(clips)
        store.catalog("texts").append(texts)
        for entity, view, features, keys, values, failures in views:
            dtypes = {name: feature.dtype for name, feature in features.items()}
            made = Provenance("tiny", "0" * 64, "last", "8 evenly", "centre 224", dtypes)
            with store.writer(
                entity, view, made, features, rows_per_shard=ROWS_PER_SHARD
            ) as writer:
                writer.write(keys, values, failures)
    return store
