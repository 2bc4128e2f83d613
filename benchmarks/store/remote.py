"""Random batches of rows out of an object store: this store next to a plain loop of requests, and tensorstore.

python -m benchmarks.store.remote                   # a minute or two, 0.5 GiB of memory
python -m benchmarks.store.remote --mib 64 --repeats 3

The server is moto's, on this machine, in a process of its own. It answers as fast as one Python process can, or
after a delay, as a server some way off does: first byte of S3 is 20 to 30 ms off. Every reader reads the same random
distinct rows of the same objects, batch by batch; readers take turns, and the median counts. The plain loop knows
where each row lies and asks for one after the other. Rates are MB/s (10^6 bytes).
"""

import multiprocessing
import os
import socket
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.harness.report import benchmark, line
from stepdiff.common.cli import command

if TYPE_CHECKING:
    from store import View

CASES = {"96 KiB": (48, 1024), "4 MiB": (2048, 1024)}
Read = Callable[[np.ndarray, np.ndarray], Any]
"""fills the second array with the rows"""


@dataclass(frozen=True)
class Options:
    mib: int = 192
    """MiB of rows of a case"""
    batch: int = 32
    """rows of a batch"""
    repeats: int = 5
    """turns of each reader"""
    delays: tuple[float, ...] = (0.0, 25.0)
    """milliseconds that the server waits before each answer"""


def run(options: Options) -> dict[str, Any]:
    """Return rows and lines."""
    rows, lines = [], []
    for delay in options.delays:
        with _server(delay / 1000) as endpoint:
            for case, shape in CASES.items():
                view = _written(f"s3://bench/{case.replace(' ', '')}", shape, options.mib)
                rates = _rates(view, endpoint, options)
                where = f"{case}, {delay:g} ms"
                rows += [{"case": where, "reader": name, "MB/s": round(rate, 1)} for name, rate in rates.items()]
                others = {name: rate for name, rate in rates.items() if name != "store"}
                lines += [line(where, rates["store"], rate, 1.0, name) for name, rate in others.items()]
    return {"rows": rows, "lines": lines, "batch": options.batch, "mib": options.mib, "server": "moto, one process"}


@contextmanager
def _server(delay: float) -> Iterator[str]:
    """Run moto's S3 server with an empty bucket; the environment names it."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    spawned = multiprocessing.get_context("spawn").Process(target=_serve, args=(port, delay), daemon=True)
    spawned.start()
    endpoint = f"http://127.0.0.1:{port}"
    os.environ.update(AWS_ENDPOINT_URL=endpoint, AWS_REGION="us-east-1")
    os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret")
    os.environ.update(AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull)  # tensorstore looks for them
    from stepdiff.common.io.object_stores import objects

    objects.cache_clear()
    try:
        _make_bucket(endpoint)
        yield endpoint
    finally:
        spawned.terminate()
        spawned.join()


def _serve(port: int, delay: float) -> None:
    import logging

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    logging.getLogger("werkzeug").setLevel("ERROR")
    answers = DomainDispatcherApplication(create_backend_app)

    def later(environ: dict[str, Any], start: Any) -> Any:
        time.sleep(delay)
        return answers(environ, start)

    run_simple("127.0.0.1", port, later if delay else answers, threaded=True)


def _make_bucket(endpoint: str) -> None:
    import boto3

    retries: Any = {"max_attempts": 20}  # while the server starts
    settings = boto3.session.Config(retries=retries)
    boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=settings).create_bucket(Bucket="bench")


def _written(url: str, shape: tuple[int, int], mib: int) -> "View":
    """Write a view of random float16 rows, `mib` MiB in all, in shards of 32 MiB at least."""
    import polars as pl

    from store import Feature, Provenance, Store

    feature = Feature(shape, "float16")
    count = mib * 2**20 // feature.row_bytes
    shard = 2 ** max(int(32 * 2**20 / feature.row_bytes).bit_length() - 1, 0)
    store = Store.open(url, create=True)
    store.catalog("clips").append(pl.DataFrame({"key": [f"c{n}" for n in range(count)]}))
    with store.lock():
        provenance = Provenance("random", "0", "0", "0", "0", {"tokens": "float16"})
        view = store.create_view("clips", "random", provenance, {"tokens": feature}, shard)
    dice = np.random.default_rng(0)
    for number in range(-(-count // shard)):
        rows = np.arange(number * shard, min((number + 1) * shard, count))
        view.write_shard(number, rows, {"tokens": dice.random((len(rows), *shape), np.float32).astype(np.float16)}, {})
    return view


def _rates(view: "View", endpoint: str, options: Options) -> dict[str, float]:
    """Return the MB/s of every reader."""
    readers: dict[str, Read] = {
        "store": lambda rows, out: view.read("tokens", rows, out),
        "loop of single requests": _loop(view),
        "tensorstore": _tensorstore(view, endpoint),
    }
    out = np.empty((options.batch, *view.features["tokens"].shape), np.float16)
    expected = out.copy()
    seconds = defaultdict(list)
    for turn in range(options.repeats + 1):  # the first warms indexes and connections
        rows = np.random.default_rng(turn).choice(len(view), options.batch, replace=False)
        view.read("tokens", rows, expected)
        for name in np.random.default_rng(turn).permutation(list(readers)).tolist():
            out[:] = 0
            begin = time.perf_counter()
            readers[name](rows, out)
            if turn:
                seconds[name].append(time.perf_counter() - begin)
            assert np.array_equal(out, expected), name
    return {name: out.nbytes / 1e6 / float(np.median(seconds[name])) for name in readers}


def _loop(view: "View") -> Read:
    import obstore

    from stepdiff.common.io.object_stores import objects as objects_at
    from stepdiff.common.io.remote import RemotePath
    from store.io.remote import RemoteShard

    group = view.paths.group
    assert isinstance(group, RemotePath)
    objects, shards, size = objects_at(group.url), {}, view.features["tokens"].row_bytes

    def read(rows: np.ndarray, out: np.ndarray) -> None:
        for place, row in enumerate(rows.tolist()):
            shard, slot = divmod(row, view.rows_per_shard)
            path = f"tokens/c/{shard}/0/0"
            if shard not in shards:
                shards[shard] = RemoteShard(group / path, view.rows_per_shard)
            data = obstore.get_range(objects, path, start=int(shards[shard].offsets[slot]), length=size)
            out[place] = np.frombuffer(memoryview(data), np.float16).reshape(out.shape[1:])

    return read


def _tensorstore(view: "View", endpoint: str) -> Read:
    import tensorstore

    path = str(view.paths.group / "tokens").removeprefix("s3://bench/")
    base = {"driver": "s3", "bucket": "bench", "endpoint": endpoint, "aws_region": "us-east-1", "path": f"{path}/"}
    array = tensorstore.open({"driver": "zarr3", "kvstore": base}, open=True).result()

    def read(rows: np.ndarray, out: np.ndarray) -> None:
        out[:] = array[rows].read().result()

    return read


main = benchmark("store.remote", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
