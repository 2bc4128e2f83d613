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
from jaxtyping import Float, Int64

from featurize.encoders import Encoder, load
from featurize.options import Options
from featurize.plan import Outcome, Task, blocks
from featurize.video.decode import Clip, decoded_clips
from featurize.video.picture import Crop
from stepdiff.common.errors import StepDiffError
from store import Feature, Provenance, Store
from store.damage.withdrawal import REPAIRED
from store.format.pool import TOKENS, pooled, pooled_view, time_steps

_ENDS = 2
"""tokens that a tokenizer sets around a text"""

Tell = Callable[[int], None]
"""receives how many more rows are finished"""

Batch = tuple[tuple[int, ...], dict[str, np.ndarray]]
"""B rows and their features [B, ...]"""


def featurize_shard(task: Task, encoder: Encoder, device: str, tell: Tell, pool: int = 1) -> Outcome:
    """Compute and commit the rows of a task, tokens as means of `pool` x `pool` patches.

    StepDiffError where they cannot be written.
    """
    view = Store.open(task.store).view(task.entity, task.view)
    begin = time.monotonic()
    work = _Work(task, encoder, task.shard * view.rows_per_shard, tell)
    kept = _Kept(len(task.rows), view.features)
    for batch, values in work.clip_batches() if task.entity == "clips" else work.text_batches():
        if pool > 1:
            steps = time_steps(values[TOKENS].shape[1], view.provenance.frames)
            values = {**values, TOKENS: pooled(values[TOKENS], steps, pool)}
        work.failures |= kept.add(batch, values)
    rows, features = kept.in_order()
    took = {"rows": len(rows), "seconds": round(time.monotonic() - begin, 3)}
    view.write_shard(task.shard, rows, features, work.failures, {**_info(task, encoder, device), **took})
    return Outcome(task.shard, work.repeated, _truncated(task, encoder))


class _Work:
    """The batches of a shard."""

    def __init__(self, task: Task, encoder: Encoder, first: int, tell: Tell) -> None:
        self.failures = dict(task.failures)
        self.repeated = 0
        self._task, self._encoder, self._first, self._tell = task, encoder, first, tell
        self._blocks = blocks(task.rows, first, task.batch_size)
        tell(len(task.failures))

    def clip_batches(self) -> Iterator[Batch]:
        """Yield the features of clips, batch by batch as the decoder completes them."""
        task, encoder = self._task, self._encoder
        clips: dict[int, dict[int, Clip]] = {b: {} for b in self._blocks}
        left = {block: len(rows) for block, rows in self._blocks.items()}
        for row, done in decoded_clips(task.clips, encoder.frames, encoder.picture, task.threads, encoder.sampling):
            block = (row - self._first) // task.batch_size
            if isinstance(done, Clip):
                clips[block][row] = done
                self.repeated += done.repeats
            else:
                self.failures[row] = done.reason
            left[block] -= 1
            if not left[block]:
                if decoded := clips.pop(block):
                    yield self._encode_clips(block, decoded)
                self._tell(len(self._blocks[block]))

    def text_batches(self) -> Iterator[Batch]:
        """Yield the features of texts, batch by batch."""
        size, texts = self._task.batch_size, self._task.texts
        for block, rows in self._blocks.items():
            start = self._first + block * size
            batch = [texts[row] for row in range(start, start + size) if row in texts]
            yield rows, _taken(self._encoder.encode_texts(batch), [row - start for row in rows])
            self._tell(len(rows))

    def _encode_clips(self, block: int, clips: Mapping[int, Clip]) -> Batch:
        if not isinstance(self._encoder.picture, Crop):
            return self._encode_whole(clips)
        size, side = self._task.batch_size, self._encoder.size
        start = self._first + block * size
        batch = np.zeros((size, self._encoder.frames, side, side, 3), np.uint8)
        for row, clip in clips.items():
            batch[row - start] = clip.frames
        rows = tuple(sorted(clips))
        return rows, _taken(self._encoder.encode_clips(batch), [row - start for row in rows])

    def _encode_whole(self, clips: Mapping[int, Clip]) -> Batch:
        """Encode clips of any shape one by one: one that cannot be encoded fails alone."""
        found: dict[int, dict[str, np.ndarray]] = {}
        for row in sorted(clips):
            try:
                found[row] = self._encoder.encode_whole(clips[row].frames, clips[row].seconds)
            except StepDiffError as error:
                self.failures[row] = str(error)
        names = next(iter(found.values()), {})
        return tuple(found), {name: np.stack([values[name] for values in found.values()]) for name in names}


class _Kept:
    """Features of finished rows, in half precision where they are not stored in float32."""

    def __init__(self, rows: int, features: Mapping[str, Feature]) -> None:
        self._rows: list[int] = []
        self._arrays = {
            name: np.empty((rows, *feature.shape), np.float32 if feature.dtype == "float32" else np.float16)
            for name, feature in features.items()
        }

    def add(self, rows: tuple[int, ...], features: Mapping[str, Float[np.ndarray, "B ..."]]) -> dict[int, str]:
        """Keep the features of B rows; return the reasons of rows that could not be kept."""
        from torch import from_numpy

        reasons: dict[int, str] = {}
        for place, row in enumerate(rows):
            for name, array in self._arrays.items():
                peak = np.abs(features[name][place]).max()
                if np.isfinite(peak) and peak > np.finfo(array.dtype).max:
                    reasons[row] = f"{name} holds {peak:.4g}, a magnitude past {array.dtype}"
            if row in reasons:
                continue
            for name, array in self._arrays.items():
                # torch rounds to float16 thirty times as fast as numpy
                from_numpy(array)[len(self._rows)] = from_numpy(features[name][place])
            self._rows.append(row)
        return reasons

    def in_order(self) -> tuple[Int64[np.ndarray, " K"], dict[str, Float[np.ndarray, "K ..."]]]:
        """Return the K rows that were kept, ascending, and their features."""
        rows = np.array(self._rows, np.int64)
        arrays = {name: array[: len(rows)] for name, array in self._arrays.items()}
        if (np.diff(rows) > 0).all():
            return rows, arrays
        order = np.argsort(rows)
        return rows[order], {name: array[order] for name, array in arrays.items()}


def _taken(features: Mapping[str, Float[np.ndarray, "B ..."]], places: list[int]) -> dict[str, np.ndarray]:
    return {name: values[places] for name, values in features.items()}


def _truncated(task: Task, encoder: Encoder) -> int:
    """Return the number of texts that are longer than the encoder reads."""
    if task.entity != "texts" or encoder.max_tokens is None:
        return 0
    seen = encoder.max_tokens
    long = [task.texts[row] for row in task.rows if len(task.texts[row]) > seen - _ENDS]
    if not long:  # a token has a character or more
        return 0
    return sum(len(tokens) > seen for tokens in encoder.tokenizer(long, verbose=False)["input_ids"])


def _info(task: Task, encoder: Encoder, device: str) -> dict[str, Any]:
    """What computed a shard, recorded with it; never a reason to refuse a run."""
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

    options: Options
    """of the run: `device` None is a GPU where the worker was given one"""
    cpus: int
    """threads of the encoder"""


class Worker:
    """Featurizes shards; a second thread may call `finished`."""

    def __init__(self, given: WorkerOptions) -> None:
        """Load nothing yet."""
        self._options, self._cpus, self._finished = given.options, given.cpus, 0

    def describe(self, entity: str, dtype: str) -> tuple[Provenance, dict[str, Feature]] | str:
        """Return provenance and features of a view of the encoder, or why it cannot have one."""
        try:
            made, features = self._encoder.provenance(entity, dtype), self._encoder.features(entity, dtype)
            return (made, features) if self._options.pool == 1 else pooled_view(made, features, self._options.pool)[:2]
        except StepDiffError as error:
            return str(error)

    def run(self, task: Task) -> Outcome:
        """Featurize and commit a shard."""
        try:
            return featurize_shard(task, self._encoder, self._device, self._tell, self._options.pool)
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
        return load(self._options.encoder, self._options.weights, self._device, **self._options.choices())
