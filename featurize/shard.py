"""A worker process, a Ray actor: it loads one encoder, then decodes, encodes and commits one shard after another.

Guarantees
- batches are fixed runs of the shard's rows, filled up: a part of a shard, or the shard again, gives every row the same
  bits
- a clip that fails is recorded with its reason and changes no other
- in memory are the frames of a few batches and the features of one shard
"""

import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from typing import Any

import numpy as np
from jaxtyping import Float

from featurize.encoders import Encoder, load
from featurize.options import Options
from featurize.plan import Outcome, Task, blocks
from featurize.video.decode import Clip, decoded_clips
from featurize.video.picture import Crop
from stepdiff.common.errors import StepDiffError
from stepdiff.common.progress import timed
from store import Feature, Provenance, Store, View
from store.damage.withdrawal import REPAIRED
from store.format.pool import TOKENS, pooled, pooled_view, square_grids

_ENDS = 2  # tokens that a tokenizer sets around a text

Encoded = tuple[tuple[int, ...], dict[str, np.ndarray]]  # B rows and their features [B, ...]
Batch = tuple[int, tuple[int, ...], dict[str, np.ndarray]]  # first how many rows of the task it finishes


def featurize_shard(
    task: Task,
    encoder: Encoder,
    device: str,
    tell: Callable[[int], None],
    pool: int = 1,
    stages: dict[str, float] | None = None,
) -> Outcome:
    """Compute and commit the rows of a task, tokens as means of `pool` x `pool` patches.

    `tell` receives how many more rows are finished, `stages` the seconds of each stage. StepDiffError where rows cannot
    be written.
    """
    stages = {} if stages is None else stages
    view = Store.open(task.store).view(task.entity, task.view)
    begin = time.monotonic()
    shard = _Shard(task, encoder, view, stages)
    tell(len(task.failures))
    batches = shard.clip_batches() if task.entity == "clips" else shard.text_batches()
    for finished, rows, values in timed(batches, stages, "forward"):
        if rows:
            if pool > 1:
                grids = square_grids(values[TOKENS].shape[1], view.provenance.frames)
                values = {**values, TOKENS: pooled(values[TOKENS], grids, pool)}
            shard.keep(rows, values)
        tell(finished)
    done, order = np.unique(np.array(shard.rows, np.int64), return_index=True)
    arrays = {name: array[: len(done)] for name, array in shard.arrays.items()}
    if (np.diff(order) < 0).any():
        arrays = {name: array[order] for name, array in arrays.items()}
    written = time.monotonic()
    took = {"rows": len(done), "seconds": round(written - begin, 3)}
    view.write_shard(task.shard, done, arrays, shard.failures, {**_info(task, encoder, device), **took})
    stages["write"] = stages.get("write", 0.0) + time.monotonic() - written
    return Outcome(task.shard, shard.repeated, _truncated(task, encoder))


class _Shard:
    """The rows of a task, batch by batch, and what became of them."""

    def __init__(self, task: Task, encoder: Encoder, view: View, stages: dict[str, float]) -> None:
        self.failures = dict(task.failures)
        self.repeated = 0
        self.rows: list[int] = []  # rows of `arrays`, as they were finished
        self.arrays = {  # in half precision where they are not stored in float32
            name: np.empty((len(task.rows), *feature.shape), np.float32 if feature.dtype == "float32" else np.float16)
            for name, feature in view.features.items()
        }
        self._task, self._encoder, self._stages = task, encoder, stages
        self._first = task.shard * view.rows_per_shard
        self._blocks = blocks(task.rows, self._first, task.batch_size)

    def clip_batches(self) -> Iterator[Batch]:
        """Yield batches of clips as the decoder completes them."""
        task, encoder = self._task, self._encoder
        clips: dict[int, dict[int, Clip]] = {block: {} for block in self._blocks}
        left = {block: len(rows) for block, rows in self._blocks.items()}
        frames = decoded_clips(task.clips, encoder.frames, encoder.picture, task.threads, encoder.sampling)
        for row, done in timed(frames, self._stages, "decode"):
            block = (row - self._first) // task.batch_size
            if isinstance(done, Clip):
                clips[block][row] = done
                self.repeated += done.repeats
            else:
                self.failures[row] = done.reason
            left[block] -= 1
            if not left[block]:
                encode = self._encode_squares if isinstance(encoder.picture, Crop) else self._encode_whole
                decoded = dict(sorted(clips.pop(block).items()))
                encoded: Encoded = encode(block, decoded) if decoded else ((), {})
                yield len(self._blocks[block]), *encoded

    def text_batches(self) -> Iterator[Batch]:
        """Yield batches of texts."""
        size, texts = self._task.batch_size, self._task.texts
        for block, rows in self._blocks.items():
            start = self._first + block * size
            features = self._encoder.encode_texts([texts[row] for row in range(start, start + size) if row in texts])
            yield len(rows), rows, {name: values[[row - start for row in rows]] for name, values in features.items()}

    def _encode_squares(self, block: int, clips: Mapping[int, Clip]) -> Encoded:
        size, side = self._task.batch_size, self._encoder.size
        places = [row - self._first - block * size for row in clips]
        batch = np.zeros((size, self._encoder.frames, side, side, 3), np.uint8)
        for place, clip in zip(places, clips.values(), strict=True):
            batch[place] = clip.frames
        return tuple(clips), {name: values[places] for name, values in self._encoder.encode_clips(batch).items()}

    def _encode_whole(self, _: int, clips: Mapping[int, Clip]) -> Encoded:
        """Encode clips of any shape one by one: one that cannot be encoded fails alone."""
        features: dict[int, dict[str, np.ndarray]] = {}
        for row, clip in clips.items():
            try:
                features[row] = self._encoder.encode_whole(clip.frames, clip.seconds)
            except StepDiffError as error:
                self.failures[row] = str(error)
        names = next(iter(features.values()), {})
        return tuple(features), {name: np.stack([values[name] for values in features.values()]) for name in names}

    def keep(self, rows: tuple[int, ...], features: Mapping[str, Float[np.ndarray, "B ..."]]) -> None:
        """Keep the features of B rows; one whose numbers are too large to be stored fails."""
        from torch import from_numpy

        for place, row in enumerate(rows):
            for name, array in self.arrays.items():
                peak = np.abs(features[name][place]).max()
                if np.isfinite(peak) and peak > np.finfo(array.dtype).max:
                    self.failures[row] = f"{name} holds {peak:.4g}, a magnitude past {array.dtype}"
            if row in self.failures:
                continue
            for name, array in self.arrays.items():
                # torch rounds to float16 thirty times as fast as numpy
                from_numpy(array)[len(self.rows)] = from_numpy(features[name][place])
            self.rows.append(row)


def _truncated(task: Task, encoder: Encoder) -> int:
    """Return the number of texts that are longer than the encoder reads."""
    if task.entity != "texts" or encoder.max_tokens is None:
        return 0
    most = encoder.max_tokens
    long = [task.texts[row] for row in task.rows if len(task.texts[row]) > most - _ENDS]
    if not long:  # a token has a character or more
        return 0
    return sum(len(tokens) > most for tokens in encoder.tokenizer(long, verbose=False)["input_ids"])


def _info(task: Task, encoder: Encoder, device: str) -> dict[str, Any]:
    """Return what computed a shard, which is recorded with it and never a reason to refuse a run."""
    import torch

    return {
        "weights": encoder.source,
        "choices": dict(encoder.chosen),
        "batch_size": task.batch_size,
        **({REPAIRED: True} if task.repair else {}),
        "device": device,
        "threads": torch.get_num_threads(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        **{package: version(package) for package in ("av", "numpy", "pillow", "torch", "transformers")},
    }


@dataclass(frozen=True)
class WorkerOptions:
    """What every worker of a run receives."""

    options: Options  # of the run: `device` None is a GPU where the worker was given one
    cpus: int  # threads of the encoder


class Worker:
    """Featurizes shards; a second thread may call `finished`."""

    def __init__(self, given: WorkerOptions) -> None:
        self._options, self._cpus, self._finished = given.options, given.cpus, 0
        self.stages = {"decode": 0.0, "forward": 0.0, "write": 0.0}
        """seconds of all shards: waiting for frames, computing, writing"""

    def describe(self, entity: str, dtype: str) -> tuple[Provenance, dict[str, Feature]] | str:
        """Return provenance and features of a view of the encoder, or why it cannot have one."""
        try:
            provenance, features = self._encoder.provenance(entity, dtype), self._encoder.features(entity, dtype)
            if self._pool > 1:
                provenance, features, _ = pooled_view(provenance, features, self._pool)
            return provenance, features
        except StepDiffError as error:
            return str(error)

    def run(self, task: Task) -> Outcome:
        """Featurize and commit a shard."""
        try:
            return featurize_shard(task, self._encoder, self._device, self._tell, self._pool, self.stages)
        except StepDiffError as error:
            return Outcome(task.shard, error=str(error))
        finally:
            self._finished = 0

    def finished(self) -> int:
        """Return how many rows of the current shard are finished."""
        return self._finished

    def _tell(self, rows: int) -> None:
        self._finished += rows

    @cached_property
    def _device(self) -> str:
        import torch

        return self._options.device or ("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def _encoder(self) -> Encoder:
        import torch

        torch.set_num_threads(self._cpus)
        encoder = load(self._options.encoder, self._options.weights, self._device, **self._options.choices())
        if encoder.pools:
            encoder.pool = self._options.pool
        return encoder

    @property
    def _pool(self) -> int:
        """The squares of patches that are averaged after the encoder."""
        return 1 if self._encoder.pools else self._options.pool
