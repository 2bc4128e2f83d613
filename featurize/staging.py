"""Batches of clips on a GPU, in stages that run at the same time, each in a thread of its own.

    decode -> upload -> forward -> download -> write

While the GPU computes a batch, the next one is decoded and copied to it, the features of the one before are copied
back, and the shard before is written. Frames are copied from pinned memory, features to it; each copy and the
computation have a stream of their own. Features that are stored in half precision are converted before the copy back.

Every stage ends with its stream: a tensor is freed or read on another stream only when the work on it is done.

Guarantees
- batches leave in the order in which they came, and an error of a stage is raised where they are used
- between two stages one batch waits, at most
"""

import math
import time
from collections import defaultdict
from collections.abc import Callable, Collection, Generator, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Float32, UInt8

from featurize.encoders import Encoder
from featurize.video.picture import Bounded, Crop
from stepdiff.common.threads import prefetched

MOST_BYTES = (
    256 << 20
)  # of the frames of a batch whose size is chosen by memory: three such batches are in pinned memory
MEMORY_SHARE = 0.8  # of the GPU's memory that such a batch may need

Computed = tuple[dict[str, Float[np.ndarray, "B ..."]], dict[str, Float32[np.ndarray, " B"]]]
"""features of a batch, and of those in half precision the largest magnitude of each row before the conversion"""


@runtime_checkable
class Device(Protocol):
    """A device as the stages of a batch. Each is called by one thread, and returns when its work is done."""

    def buffer(self, shape: tuple[int, ...]) -> UInt8[np.ndarray, "B T size size 3"]:
        """Return main memory of zeros for the frames of a batch."""

    def upload(self, frames: UInt8[np.ndarray, "B T size size 3"]) -> Any:
        """Copy frames to the device."""

    def forward(self, frames: Any) -> Any:
        """Compute features of what `upload` returned."""

    def download(self, features: Any) -> Computed:
        """Copy to main memory what `forward` returned."""


class Gpu:
    """A CUDA device."""

    def __init__(self, encoder: Encoder, device: str, half: Collection[str]) -> None:
        """Make the streams. half: names of the features that are stored in half precision."""
        self._encoder, self._device, self._half = encoder, torch.device(device), half
        self._up, self._compute, self._down = (torch.cuda.Stream(self._device) for _ in range(3))

    def buffer(self, shape: tuple[int, ...]) -> UInt8[np.ndarray, "B T size size 3"]:
        return torch.zeros(shape, dtype=torch.uint8, pin_memory=True).numpy()

    def upload(self, frames: UInt8[np.ndarray, "B T size size 3"]) -> UInt8[torch.Tensor, "B T size size 3"]:
        with torch.cuda.stream(self._up):
            uploaded = torch.from_numpy(frames).to(self._device, non_blocking=True)
            self._up.synchronize()
        return uploaded

    def forward(self, frames: UInt8[torch.Tensor, "B T size size 3"]) -> dict[str, dict[str, torch.Tensor]]:
        with torch.cuda.stream(self._compute), torch.inference_mode():
            computed = halved(self._encoder.forward_clips(frames), self._half)
            self._compute.synchronize()
        return computed

    def download(self, features: dict[str, dict[str, torch.Tensor]]) -> Computed:
        with torch.cuda.stream(self._down):
            values, peaks = ({name: _pinned(there) for name, there in part.items()} for part in features.values())
            self._down.synchronize()
        return values, peaks


def _pinned(values: torch.Tensor) -> np.ndarray:
    """Return pinned memory that receives `values` on the current stream. PyTorch uses freed pinned memory again."""
    return torch.empty(values.shape, dtype=values.dtype, pin_memory=True).copy_(values, non_blocking=True).numpy()


@torch.inference_mode()
def halved(
    features: dict[str, Float[torch.Tensor, "B ..."]], half: Collection[str]
) -> dict[str, dict[str, torch.Tensor]]:
    """Return `values`, of the names in `half` in half precision and else in float32, and `peaks`: see Computed."""
    norm, most = torch.linalg.vector_norm, math.inf
    return {
        "values": {
            name: values.to(torch.float16 if name in half else torch.float32) for name, values in features.items()
        },
        "peaks": {name: norm(features[name].flatten(1).float(), most, dim=1) for name in features if name in half},
    }


@dataclass
class Batch:
    """Clips of a shard on their way through the stages."""

    shard: Any
    finished: int  # rows of the shard that are finished with it
    rows: tuple[int, ...] = ()
    places: tuple[int, ...] = ()  # of the rows in the batch
    data: Any = None  # what the last stage returned; None: no clip of it could be decoded
    last: bool = False  # whether the shard ends with it


@dataclass
class Spent:
    """Seconds of each stage, by its name, for reports."""

    waiting: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))  # for the stage before
    working: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))


def staged(batches: Iterator[Batch], device: Device, spent: Spent) -> Generator[Batch, None, None]:
    """Yield batches of frames with their features."""
    batches = prefetched([batches], waiting=1)  # a shard's decoding begins while the last batch before is uploaded
    for work in (device.upload, device.forward, device.download):
        batches = prefetched([_through(work, batches, spent)], waiting=1)
    yield from batches


def _through(work: Callable[[Any], Any], batches: Iterator[Batch], spent: Spent) -> Iterator[Batch]:
    name, since = work.__name__, time.monotonic()
    for batch in batches:
        begin = time.monotonic()
        spent.waiting[name] += begin - since
        if batch.data is not None:
            batch.data = work(batch.data)
        spent.working[name] += time.monotonic() - begin
        yield batch
        since = time.monotonic()


def batch_by_memory(encoder: Encoder, device: str, rows: int, workers: int = 1) -> int:
    """Return the clips of a batch that a GPU has memory for: the largest power of two, of at most `rows`.

    workers: that share the GPU.
    """
    clip = _noise(encoder)
    most = min(rows, max(MOST_BYTES // clip.nbytes, 1))
    share = MEMORY_SHARE * torch.cuda.get_device_properties(device).total_memory / workers

    def fits(size: int) -> bool:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats(device)
        try:
            if isinstance(encoder.picture, Crop):
                encoder.encode_clips(np.broadcast_to(clip, (size, *clip.shape)).copy())
            else:
                encoder.encode_wholes([(clip, np.arange(len(clip), dtype=np.float64))] * size)
        except torch.OutOfMemoryError:
            return False
        return torch.cuda.max_memory_reserved(device) <= share

    try:
        return doubled(fits, most)
    finally:
        torch.cuda.empty_cache()


def doubled(fits: Callable[[int], bool], most: int) -> int:
    """Return the largest power of two, of at most `most`, that fits: 1, 2, 4 ... are tried."""
    size = 1
    while 2 * size <= most and fits(2 * size):
        size *= 2
    return size


def _noise(encoder: Encoder) -> UInt8[np.ndarray, "T H W 3"]:
    """Return frames of a clip that differ from each other, in the largest shape that the encoder sees often."""
    picture = encoder.picture
    side = math.isqrt(picture.pixels) if isinstance(picture, Bounded) else encoder.size
    return np.random.default_rng(0).integers(0, 256, (encoder.frames, side, side, 3), dtype=np.uint8)
