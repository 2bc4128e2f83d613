"""Clips of many videos, decoded by threads ahead of whoever encodes them.

Guarantees
- every row comes back once
- at most QUEUED finished clips wait; whoever stops taking them stops the threads
"""

import queue
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path

from featurize.task import Source
from featurize.video.decode import Clip, Failure, read_clips
from featurize.video.frames import Sampling
from featurize.video.picture import Picture

QUEUED = 16
_POLL = 0.1  # seconds

_Item = tuple[int, Clip | Failure] | BaseException | None  # None: a thread has ended


def decoded_clips(
    clips: Mapping[int, Source], count: int, crop: Picture, threads: int = 1, sampling: Sampling = "linspace"
) -> Iterator[tuple[int, Clip | Failure]]:
    """Row and clip, or failure, as they become complete; video by video in the order of rows."""
    by_video: dict[str, list[int]] = {}
    for row in sorted(clips):
        by_video.setdefault(clips[row].video, []).append(row)
    videos: queue.SimpleQueue[tuple[str, list[int]]] = queue.SimpleQueue()
    for video in by_video.items():
        videos.put(video)
    finished: queue.Queue[_Item] = queue.Queue(QUEUED)
    stop = threading.Event()

    def give(item: _Item) -> None:
        while not stop.is_set():
            try:
                return finished.put(item, timeout=_POLL)
            except queue.Full:
                continue

    def decode() -> None:
        try:
            while not stop.is_set():
                video, rows = videos.get_nowait()
                intervals = [(clips[row].start, clips[row].end) for row in rows]
                for done in read_clips(Path(video), intervals, count, crop, sampling=sampling):
                    give((rows[done.index], done))
                    if stop.is_set():
                        return
        except queue.Empty:
            give(None)
        except BaseException as error:  # raised again by whoever takes the clips
            give(error)

    workers = [threading.Thread(target=decode, name=f"decode-{i}", daemon=True) for i in range(threads)]
    for worker in workers:
        worker.start()
    try:
        running = len(workers)
        while running:
            item = finished.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        stop.set()
        for worker in workers:
            worker.join()
