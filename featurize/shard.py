"""A worker process, a Ray actor: it loads one encoder, then decodes, encodes and commits one shard
after another.

Guarantees
- batches are fixed runs of the shard's rows, filled up: a part of a shard, or the shard again,
  gives every row the same bits
- a clip that fails is recorded with its reason and changes no other
- in memory are the frames of a few batches and the features of one shard, on a GPU of two
"""

import platform
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from typing import Any

import numpy as np
import torch

from featurize.encoders import Encoder, load
from featurize.options import Options
from featurize.plan import Outcome, Shards, Task, blocks
from featurize.staging import Batch, Computed, Gpu, Spent, batch_by_memory, in_parts, staged
from featurize.video.decode import Clip, decoded_clips
from featurize.video.picture import Crop
from stepdiff_core.errors import StepDiffError
from stepdiff_core.progress import timed
from store import Feature, Provenance, Store, View
from store.format.pool import TOKENS, pooled, pooled_view, square_grids

_ENDS = 2  # tokens that a tokenizer sets around a text


def featurize_shards(
    tasks: Sequence[Task],
    encoder: Encoder,
    device: str,
    tell: Callable[[int], None],
    pool: int = 1,
    stages: Gpu | None = None,
    spent: Spent | None = None,
) -> Outcome:
    """Compute and commit the rows of tasks of one view, one shard after another. StepDiffError:
    they cannot be written.

    Args:
        tasks: Of shards. On a GPU the next is decoded and computed while one is written.
        encoder: Of the view.
        device: Of the encoder.
        tell: Receives how many more rows are finished.
        pool: Tokens are means of `pool` x `pool` patches.
        stages: Function that computes batches, if neither the encoder in this thread nor a GPU
            does.
        spent: Receives the seconds of each stage.
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
    repeated, truncated = (
        sum(getattr(one, name) for one in outcomes) for name in ("repeated", "truncated")
    )
    return Outcome(tasks[0].shard, repeated, truncated, encoder.forward_rows)


def _compute_staged(
    shards: Iterable["_Shard"], stages: Gpu, tell: Callable[[int], None], spent: Spent
) -> list[Outcome]:
    """Compute and commit shards; one is written while the next is computed."""
    since, outcomes = time.monotonic(), list[Outcome]()

    def wait_for(writing: Future[Outcome] | None) -> None:
        begin = time.monotonic()
        outcomes.extend([] if writing is None else [writing.result()])
        spent.waiting["write"] += time.monotonic() - begin

    batches = staged(
        (batch for shard in shards for batch in shard.batches(stages.buffer)), stages, spent
    )
    with ThreadPoolExecutor(1, thread_name_prefix="write") as thread, closing(batches):
        writing = None
        for batch in batches:
            batch.shard.keep(batch)
            tell(batch.finished)
            if batch.last:
                wait_for(writing)
                now = time.monotonic()
                since, writing = now, thread.submit(batch.shard.write, now - since)
        wait_for(writing)
    return outcomes


class _Shard:
    """The rows of a task, batch by batch, and their results."""

    def __init__(
        self, task: Task, encoder: Encoder, device: str, view: View, pool: int, spent: Spent
    ) -> None:
        self.failures = dict(task.failures)
        self.repeated = 0
        # rows of its last forward pass, once the GPU ran out of memory
        self.forward_rows: int | None = None
        self.rows: list[int] = []  # rows of `arrays`, as they were finished
        self.arrays = {  # in half precision where they are not stored in float32
            name: np.empty(
                (len(task.rows), *feature.shape),
                np.float32 if feature.dtype == "float32" else np.float16,
            )
            for name, feature in view.features.items()
        }
        self._task, self.encoder, self._device, self._view, self._pool = (
            task,
            encoder,
            device,
            view,
            pool,
        )
        self._spent = spent.working
        self._first = task.shard * view.rows_per_shard
        self._blocks = blocks(task.rows, self._first, task.batch_size)

    def compute(self, tell: Callable[[int], None]) -> Outcome:
        """Compute and commit all rows in this thread; `tell` receives how many more are
        finished."""
        begin = time.monotonic()
        batches = self.batches(partial(np.zeros, dtype=np.uint8))
        computed = (part for batch in batches for part in in_parts(self._encode, batch))
        for batch in timed(computed, self._spent, "forward", ["decode"]):
            self.keep(batch)
            tell(batch.finished)
        return self.write(time.monotonic() - begin)

    def write(self, seconds: float) -> Outcome:
        """Commit the kept rows, which took `seconds` to compute. StepDiffError if they cannot be
        written."""
        begin = time.monotonic()
        done, order = np.unique(np.array(self.rows, np.int64), return_index=True)
        arrays = {name: array[: len(done)] for name, array in self.arrays.items()}
        if (np.diff(order) < 0).any():
            arrays = {name: array[order] for name, array in arrays.items()}
        info = {  # recorded with the shard, and never a reason to refuse a run
            "weights": self.encoder.source,
            "choices": dict(self.encoder.chosen),
            "batch_size": self._task.batch_size,
            "device": self._device,
            "threads": torch.get_num_threads(),
            "machine": platform.machine(),
            "python": platform.python_version(),
            **{
                package: version(package)
                for package in ("av", "numpy", "pillow", "torch", "transformers")
            },
            "rows": len(done),
            "seconds": round(seconds + time.monotonic() - begin, 3),
            **({"forward_rows": self.forward_rows} if self.forward_rows else {}),
        }
        self._view.write_shard(self._task.shard, done, arrays, self.failures, info)
        self._spent["write"] += time.monotonic() - begin
        return Outcome(self._task.shard, self.repeated, _truncated(self._task, self.encoder))

    def batches(self, buffer: Callable[[tuple[int, ...]], np.ndarray]) -> Iterator[Batch]:
        """Yield batches as they are complete, and last one without rows. buffer: makes the array of
        squares."""
        yield from self._texts() if self._task.entity == "texts" else self._clips(buffer)
        yield Batch(self, len(self._task.failures), last=True)

    def _texts(self) -> Iterator[Batch]:
        size, texts = self._task.batch_size, self._task.texts
        for block, rows in self._blocks.items():
            start = self._first + block * size
            how = [texts[row] for row in range(start, start + size) if row in texts]
            yield Batch(self, len(rows), rows, tuple(row - start for row in rows), how)

    def _clips(self, buffer: Callable[[tuple[int, ...]], np.ndarray]) -> Iterator[Batch]:
        """Yield batches of squares, where other rows than those to compute are black, or of whole
        pictures."""
        size, side = self._task.batch_size, self.encoder.size
        for block, clips in self._decoded():
            batch = Batch(self, len(self._blocks[block]), tuple(clips), tuple(range(len(clips))))
            if isinstance(self.encoder.picture, Crop) and clips:
                batch.places = tuple(row - self._first - block * size for row in clips)
                batch.data = buffer((size, self.encoder.frames, side, side, 3))
                for place, clip in zip(batch.places, clips.values(), strict=True):
                    batch.data[place] = clip.frames
            elif clips:
                batch.data = [(clip.frames, clip.seconds) for clip in clips.values()]
            yield batch

    def _decoded(self) -> Iterator[tuple[int, dict[int, Clip]]]:
        """Yield each batch's number and its clips by row, without those that failed."""
        task, encoder = self._task, self.encoder
        clips: dict[int, dict[int, Clip]] = {block: {} for block in self._blocks}
        remaining = {block: len(rows) for block, rows in self._blocks.items()}
        frames = decoded_clips(
            task.clips, encoder.frames, encoder.picture, task.threads, encoder.sampling
        )
        for row, done in timed(frames, self._spent, "decode"):
            block = (row - self._first) // task.batch_size
            if isinstance(done, Clip):
                clips[block][row] = done
                self.repeated += done.repeats
            else:
                self.failures[row] = done.reason
            remaining[block] -= 1
            if not remaining[block]:
                yield block, dict(sorted(clips.pop(block).items()))

    def _encode(self, data: Any) -> Computed | list[Any]:
        """Return the features of a batch, or for whole pictures each clip's features or its reason
        for having none."""
        if self._task.entity == "texts":
            return self.encoder.encode_texts(data), {}
        if isinstance(self.encoder.picture, Crop):
            return self.encoder.encode_clips(data), {}
        return self.encoder.encode_wholes(data)

    def keep(self, batch: Batch) -> None:
        """Keep the features of rows; one that was not encoded, or whose numbers are too large to be
        stored, fails."""
        for row, place in zip(batch.rows, batch.places, strict=True):
            peaks: dict[str, Any] = {}
            if isinstance(batch.data, list):
                features = batch.data[place]
            else:
                features, peaks = (
                    {name: values[place] for name, values in part.items()} for part in batch.data
                )
            if isinstance(features, StepDiffError):
                self.failures[row] = str(features)
                continue
            if self._pool > 1:
                tokens = features[TOKENS][None]
                grids = square_grids(tokens.shape[1], self._view.provenance.frames)
                features[TOKENS] = pooled(tokens, grids, self._pool)[0]
            for name, array in self.arrays.items():
                peak = peaks[name] if name in peaks else np.abs(features[name]).max()
                if np.isfinite(peak) and peak > np.finfo(array.dtype).max:
                    self.failures[row] = f"{name} holds {peak:.4g}, a magnitude past {array.dtype}"
            if row in self.failures:
                continue
            for name, array in self.arrays.items():
                # torch rounds to float16 thirty times as fast as numpy
                torch.from_numpy(array)[len(self.rows)] = torch.from_numpy(features[name])
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


@dataclass(frozen=True)
class WorkerOptions:
    """What every worker of a run receives."""

    options: Options  # of the run: `device` None is a GPU where the worker was given one
    cpus: int  # threads of the encoder


class Worker:
    """Featurizes shards; a second thread may call `finished`."""

    outcome = Outcome

    def __init__(self, how: WorkerOptions) -> None:
        self._options, self._cpus, self._finished = how.options, how.cpus, 0
        self._spent = Spent()
        self.stages = self._spent.working
        """seconds of all shards in each stage"""

    def describe(self, entity: str, dtype: str) -> tuple[Provenance, dict[str, Feature]]:
        """Return provenance and features of a view of the encoder. StepDiffError: it cannot have
        one."""
        provenance, features = (
            self._encoder.provenance(entity, dtype),
            self._encoder.features(entity, dtype),
        )
        if self._pool > 1:
            provenance, features, _ = pooled_view(provenance, features, self._pool)
        return provenance, features

    def batch_size(self, rows: int) -> int:
        """Return the clips of a batch that a GPU has memory for, of at most `rows`."""
        return batch_by_memory(self._encoder, self._device, rows, self._options.workers_per_gpu)

    def run(self, task: Shards) -> Outcome:
        """Featurize and commit shards."""
        try:
            return featurize_shards(
                task.tasks, self._encoder, self._device, self._tell, self._pool, spent=self._spent
            )
        finally:
            self._finished = 0

    def finished(self) -> int:
        """Return how many rows of the current shard are finished."""
        return self._finished

    def _tell(self, rows: int) -> None:
        self._finished += rows

    @cached_property
    def _device(self) -> str:
        return self._options.device or ("cuda" if torch.cuda.is_available() else "cpu")

    @cached_property
    def _encoder(self) -> Encoder:
        torch.set_num_threads(self._cpus)
        encoder = load(
            self._options.encoder, self._options.weights, self._device, **self._options.choices()
        )
        if encoder.pools:
            encoder.pool = self._options.pool
        return encoder

    @property
    def _pool(self) -> int:
        """The squares of patches that are averaged after the encoder."""
        return 1 if self._encoder.pools else self._options.pool
