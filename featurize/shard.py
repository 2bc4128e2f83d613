"""A worker process, a Ray actor: it loads one encoder, then decodes, encodes and commits one shard after another.

Guarantees
- batches are fixed runs of the shard's rows, filled up: a part of a shard, or the shard again, gives every row the same
  bits
- a clip that fails is recorded with its reason and changes no other
- in memory are the frames of a few batches and the features of one shard, on a GPU of two
"""

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from types import MappingProxyType
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8

from featurize.encoders import Encoder, load
from featurize.options import Options
from featurize.plan import Outcome, Shards, Task, blocks
from featurize.staging import Batch, Device, Gpu, Spent, batch_by_memory, staged
from featurize.video.decode import Clip, decoded_clips
from featurize.video.picture import Crop
from stepdiff.common.errors import StepDiffError
from stepdiff.common.progress import timed
from store import Feature, Provenance, Store, View
from store.damage import REPAIRED
from store.format.pool import TOKENS, pooled, pooled_view, square_grids

_ENDS = 2  # tokens that a tokenizer sets around a text

Encoded = tuple[tuple[int, ...], dict[str, np.ndarray]]  # B rows and their features [B, ...]
Finished = tuple[int, tuple[int, ...], dict[str, np.ndarray]]  # first how many rows of the task it finishes


def featurize_shards(
    tasks: Sequence[Task],
    encoder: Encoder,
    device: str,
    tell: Callable[[int], None],
    pool: int = 1,
    stages: Device | None = None,
    spent: Spent | None = None,
) -> Outcome:
    """Compute and commit the rows of tasks of one view, one shard after another.

    Args:
        tasks: Of shards. On a GPU the next is decoded and computed while one is written.
        encoder: Of the view.
        device: Of the encoder.
        tell: Receives how many more rows are finished.
        pool: Tokens are means of `pool` x `pool` patches.
        stages: What computes batches, where it is not the encoder in this thread or a GPU.
        spent: Receives the seconds of each stage.

    Raises:
        StepDiffError: Rows cannot be written.
    """
    spent = spent or Spent()
    view = Store.open(tasks[0].store).view(tasks[0].entity, tasks[0].view)
    shards = (_Shard(task, encoder, device, view, pool, spent) for task in tasks)
    squares = view.entity == "clips" and isinstance(encoder.picture, Crop)
    if stages is None and device.startswith("cuda") and squares and encoder.forwards:
        half = {name for name, feature in view.features.items() if feature.dtype != "float32"}
        stages = Gpu(encoder, device, half - {TOKENS} if pool > 1 else half)
    if stages is None:
        outcomes = [shard.compute(tell) for shard in shards]
    else:
        outcomes = _compute_staged(shards, stages, tell, spent)
    return Outcome(
        tasks[0].shard, sum(outcome.repeated for outcome in outcomes), sum(outcome.truncated for outcome in outcomes)
    )


def _compute_staged(
    shards: Iterable["_Shard"], stages: Device, tell: Callable[[int], None], spent: Spent
) -> list[Outcome]:
    """Compute and commit shards; one is written while the next is computed."""
    since, outcomes = time.monotonic(), list[Outcome]()

    def wait_for(writing: Future[Outcome] | None) -> None:
        begin = time.monotonic()
        outcomes.extend([] if writing is None else [writing.result()])
        spent.waiting["write"] += time.monotonic() - begin

    batches = staged((batch for shard in shards for batch in shard.batches(stages.buffer)), stages, spent)
    with ThreadPoolExecutor(1, thread_name_prefix="write") as thread, closing(batches):
        writing = None
        for batch in batches:
            if batch.data is not None:
                batch.shard.keep(batch.rows, *batch.data, batch.places)
            tell(batch.finished)
            if batch.last:
                wait_for(writing)
                now = time.monotonic()
                since, writing = now, thread.submit(batch.shard.write, now - since)
        wait_for(writing)
    return outcomes


class _Shard:
    """The rows of a task, batch by batch, and what became of them."""

    def __init__(self, task: Task, encoder: Encoder, device: str, view: View, pool: int, spent: Spent) -> None:
        self.failures = dict(task.failures)
        self.repeated = 0
        self.rows: list[int] = []  # rows of `arrays`, as they were finished
        self.arrays = {  # in half precision where they are not stored in float32
            name: np.empty((len(task.rows), *feature.shape), np.float32 if feature.dtype == "float32" else np.float16)
            for name, feature in view.features.items()
        }
        self._task, self._encoder, self._device, self._view, self._pool = task, encoder, device, view, pool
        self._spent = spent.working
        self._first = task.shard * view.rows_per_shard
        self._blocks = blocks(task.rows, self._first, task.batch_size)

    def compute(self, tell: Callable[[int], None]) -> Outcome:
        """Compute and commit all rows in this thread; `tell` receives how many more are finished."""
        begin = time.monotonic()
        tell(len(self._task.failures))
        batches = self.clip_batches() if self._task.entity == "clips" else self.text_batches()
        for finished, rows, values in timed(batches, self._spent, "forward", ["decode"]):
            if rows:
                self.keep(rows, values)
            tell(finished)
        return self.write(time.monotonic() - begin)

    def write(self, seconds: float) -> Outcome:
        """Commit what was kept, which took so many seconds. StepDiffError where it cannot be written."""
        begin = time.monotonic()
        done, order = np.unique(np.array(self.rows, np.int64), return_index=True)
        arrays = {name: array[: len(done)] for name, array in self.arrays.items()}
        if (np.diff(order) < 0).any():
            arrays = {name: array[order] for name, array in arrays.items()}
        took = {"rows": len(done), "seconds": round(seconds + time.monotonic() - begin, 3)}
        info = {**_info(self._task, self._encoder, self._device), **took}
        self._view.write_shard(self._task.shard, done, arrays, self.failures, info)
        self._spent["write"] += time.monotonic() - begin
        return Outcome(self._task.shard, self.repeated, _truncated(self._task, self._encoder))

    def batches(self, buffer: Callable[[tuple[int, ...]], np.ndarray]) -> Iterator[Batch]:
        """Yield batches of squares as the decoder completes them, and last one without rows."""
        for block, clips in self._decoded():
            places, frames = self._packed(block, clips, buffer) if clips else ((), None)
            yield Batch(self, len(self._blocks[block]), tuple(clips), places, frames)
        yield Batch(self, len(self._task.failures), last=True)

    def clip_batches(self) -> Iterator[Finished]:
        """Yield batches of clips as the decoder completes them."""
        encode = self._encode_squares if isinstance(self._encoder.picture, Crop) else self._encode_whole
        for block, clips in self._decoded():
            encoded: Encoded = encode(block, clips) if clips else ((), {})
            yield len(self._blocks[block]), *encoded

    def _decoded(self) -> Iterator[tuple[int, dict[int, Clip]]]:
        """Yield each batch's number and its clips by row, without those that failed."""
        task, encoder = self._task, self._encoder
        clips: dict[int, dict[int, Clip]] = {block: {} for block in self._blocks}
        left = {block: len(rows) for block, rows in self._blocks.items()}
        frames = decoded_clips(task.clips, encoder.frames, encoder.picture, task.threads, encoder.sampling)
        for row, done in timed(frames, self._spent, "decode"):
            block = (row - self._first) // task.batch_size
            if isinstance(done, Clip):
                clips[block][row] = done
                self.repeated += done.repeats
            else:
                self.failures[row] = done.reason
            left[block] -= 1
            if not left[block]:
                yield block, dict(sorted(clips.pop(block).items()))

    def text_batches(self) -> Iterator[Finished]:
        """Yield batches of texts."""
        size, texts = self._task.batch_size, self._task.texts
        for block, rows in self._blocks.items():
            start = self._first + block * size
            features = self._encoder.encode_texts([texts[row] for row in range(start, start + size) if row in texts])
            yield len(rows), rows, {name: values[[row - start for row in rows]] for name, values in features.items()}

    def _packed(
        self, block: int, clips: Mapping[int, Clip], buffer: Callable[[tuple[int, ...]], np.ndarray]
    ) -> tuple[tuple[int, ...], UInt8[np.ndarray, "B T size size 3"]]:
        """Return the places of clips in their batch, and its frames; those of other rows are black."""
        size, side = self._task.batch_size, self._encoder.size
        places = tuple(row - self._first - block * size for row in clips)
        batch = buffer((size, self._encoder.frames, side, side, 3))
        for place, clip in zip(places, clips.values(), strict=True):
            batch[place] = clip.frames
        return places, batch

    def _encode_squares(self, block: int, clips: Mapping[int, Clip]) -> Encoded:
        places, batch = self._packed(block, clips, partial(np.zeros, dtype=np.uint8))
        return tuple(clips), {name: v[list(places)] for name, v in self._encoder.encode_clips(batch).items()}

    def _encode_whole(self, _: int, clips: Mapping[int, Clip]) -> Encoded:
        """Encode clips of any shape: one that cannot be encoded fails alone."""
        features: dict[int, dict[str, np.ndarray]] = {}
        encoded = self._encoder.encode_wholes([(clip.frames, clip.seconds) for clip in clips.values()])
        for row, values in zip(clips, encoded, strict=True):
            if isinstance(values, StepDiffError):
                self.failures[row] = str(values)
            else:
                features[row] = values
        names = next(iter(features.values()), {})
        return tuple(features), {name: np.stack([values[name] for values in features.values()]) for name in names}

    def keep(
        self,
        rows: tuple[int, ...],
        features: Mapping[str, Float[np.ndarray, "B ..."]],
        peaks: Mapping[str, Float[np.ndarray, " B"]] = MappingProxyType({}),
        places: Sequence[int] | None = None,
    ) -> None:
        """Keep the features of rows; one whose numbers are too large to be stored fails.

        peaks: largest magnitudes, of features that are in half precision already; places: of the rows in the batch.
        """
        from torch import from_numpy

        if self._pool > 1:
            grids = square_grids(features[TOKENS].shape[1], self._view.provenance.frames)
            features = {**features, TOKENS: pooled(features[TOKENS], grids, self._pool)}
        for row, place in zip(rows, range(len(rows)) if places is None else places, strict=True):
            for name, array in self.arrays.items():
                peak = peaks[name][place] if name in peaks else np.abs(features[name][place]).max()
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
        self._spent = Spent()
        self.stages = self._spent.working
        """seconds of all shards in each stage"""

    def describe(self, entity: str, dtype: str) -> tuple[Provenance, dict[str, Feature]] | str:
        """Return provenance and features of a view of the encoder, or why it cannot have one."""
        try:
            provenance, features = self._encoder.provenance(entity, dtype), self._encoder.features(entity, dtype)
            if self._pool > 1:
                provenance, features, _ = pooled_view(provenance, features, self._pool)
            return provenance, features
        except StepDiffError as error:
            return str(error)

    def batch_size(self, rows: int) -> int:
        """Return the clips of a batch that a GPU has memory for, of at most `rows`."""
        return batch_by_memory(self._encoder, self._device, rows, self._options.workers_per_gpu)

    def run(self, task: Shards) -> Outcome:
        """Featurize and commit shards."""
        try:
            return featurize_shards(task.tasks, self._encoder, self._device, self._tell, self._pool, spent=self._spent)
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
