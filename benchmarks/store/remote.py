"""Random batches of rows out of an object store: this store next to zarr-python and tensorstore.

python -m benchmarks.store.remote                   # a minute or two, 0.5 GiB of memory
python -m benchmarks.store.remote --mib 32 --batch 4 --repeats 1

The server is moto's, on this machine, in a process of its own. It answers as fast as one Python process can, or
after a delay, as a server some way off does: first byte of S3 is 20 to 30 ms off. Every reader reads the same random
distinct rows of the same objects, batch by batch; readers take turns, and the median counts. The ceiling is one
request for as many bytes in a row. Rates are MB/s (10^6 bytes).
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

from benchmarks.harness import Row, benchmark, race
from stepdiff.common.cli import command
from stepdiff.common.errors import StepDiffError

if TYPE_CHECKING:
    from store import View

CEILING = "one request"
CASES = ("96 KiB float16", "4 MiB float16")
SHARD_BYTES = 32 * 2**20  # moto copies a whole object for each request


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
    """Return the record."""
    from benchmarks.store.layouts import CASES as SHAPES
    from benchmarks.store.layouts import write_random_view

    rows: list[Row] = []
    races: list[Row] = []
    for delay in options.delays:
        with server(delay / 1000) as endpoint:
            for name in CASES:
                shape, dtype, _ = SHAPES[name]
                row_bytes = int(np.prod(shape)) * 2
                count = options.mib * 2**20 // row_bytes
                if count < options.batch:
                    raise StepDiffError(
                        f"--mib {options.mib} holds {count} rows of {name}; give more, or a smaller --batch"
                    )
                shard = 2 ** ((SHARD_BYTES // row_bytes).bit_length() - 1)
                view = write_random_view(
                    f"s3://bench/{name.replace(' ', '')}", shape, dtype, count, options.batch, shard
                )
                rates = measure(view, endpoint, options)
                case = f"{name}, {delay:g} ms"
                rows += [{"case": case, "reader": reader, "MB/s": round(rate, 1)} for reader, rate in rates.items()]
                ours = rates.pop("store")
                races += [
                    race(case, ours, rate, None if peer == CEILING else 1.0, peer) for peer, rate in rates.items()
                ]
    return {"rows": rows, "races": races, "batch": options.batch, "mib": options.mib, "server": "moto, one process"}


@contextmanager
def server(delay: float) -> Iterator[str]:
    """Run moto's S3 server with an empty bucket; the environment names it."""
    import boto3

    from stepdiff.common.io.remote import objects

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = multiprocessing.get_context("spawn").Process(target=serve, args=(port, delay), daemon=True)
    process.start()
    endpoint = f"http://127.0.0.1:{port}"
    os.environ.update(AWS_ENDPOINT_URL=endpoint, AWS_REGION="us-east-1")
    os.environ.update(AWS_ACCESS_KEY_ID="key", AWS_SECRET_ACCESS_KEY="secret")
    os.environ.update(AWS_CONFIG_FILE=os.devnull, AWS_SHARED_CREDENTIALS_FILE=os.devnull)  # tensorstore looks for them
    objects.cache_clear()
    try:
        patient = boto3.session.Config(retries={"max_attempts": 20})  # while the server starts
        client = boto3.client("s3", endpoint_url=endpoint, region_name="us-east-1", config=patient)
        client.create_bucket(Bucket="bench")
        yield endpoint
    finally:
        process.terminate()
        process.join()


def serve(port: int, delay: float) -> None:
    """Serve moto's S3, each answer after `delay` seconds."""
    import logging

    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import run_simple

    logging.getLogger("werkzeug").setLevel("ERROR")
    moto = DomainDispatcherApplication(create_backend_app)

    def application(environ: dict[str, Any], start: Any) -> Any:
        time.sleep(delay)
        return moto(environ, start)

    run_simple("127.0.0.1", port, application, threaded=True)


def measure(view: "View", endpoint: str, options: Options) -> dict[str, float]:
    """Return the MB/s of every reader."""
    import obstore
    import tensorstore
    import zarr
    from zarr.storage import ObjectStore

    from stepdiff.common.io.remote import objects

    tokens: Any = view.paths.group / "tokens"
    out = np.empty((options.batch, *view.features["tokens"].shape), np.float16)
    expected = out.copy()
    zarr_array: Any = zarr.open_array(ObjectStore(objects(tokens.url), read_only=True), mode="r")

    def with_zarr(rows: np.ndarray) -> None:
        for place, row in enumerate(rows.tolist()):
            out[place] = zarr_array[row]

    location = {"driver": "s3", "bucket": "bench", "endpoint": endpoint, "aws_region": "us-east-1"}
    location["path"] = str(tokens).removeprefix("s3://bench/") + "/"
    array = tensorstore.open({"driver": "zarr3", "kvstore": location}, open=True).result()

    def with_tensorstore(rows: np.ndarray) -> None:
        out[:] = array[rows].read().result()

    def one_request(rows: np.ndarray) -> None:
        obstore.get_range(objects(tokens.url), "c/0/0/0", start=0, length=out.nbytes)

    readers: dict[str, Callable[[np.ndarray], object]] = {
        "store": lambda rows: view.read("tokens", rows, out),
        "zarr-python, row by row": with_zarr,
        "tensorstore": with_tensorstore,
        CEILING: one_request,
    }
    seconds = defaultdict(list)
    for turn in range(options.repeats + 1):  # the first warms indexes and connections
        dice = np.random.default_rng(turn)
        rows = dice.choice(len(view), options.batch, replace=False)
        view.read("tokens", rows, expected)
        for name in dice.permutation(list(readers)).tolist():
            out[:] = 0
            begin = time.perf_counter()
            readers[name](rows)
            if turn:
                seconds[name].append(time.perf_counter() - begin)
            assert name == CEILING or np.array_equal(out, expected), name
    return {name: out.nbytes / 1e6 / float(np.median(seconds[name])) for name in readers}


main = benchmark("store.remote", Options, __doc__, run)

if __name__ == "__main__":
    command.run(main)
