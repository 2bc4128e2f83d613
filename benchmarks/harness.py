"""The frame of a benchmark: its command line, stopwatch and report, memory of a process, and a small language model."""

import json
import multiprocessing
import platform
import resource
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import polars as pl

from stepdiff.common.cli.options import parse
from stepdiff.common.io.tables import print_table
from stepdiff.common.threads import cores
from stepdiff.kitchen import __main__ as kitchen
from store import Feature, Provenance, Store, View

Row = Mapping[str, Any]
"""one line of a table"""
Result = TypeVar("Result")
GIB = 2**30
PAUSE = 0.2  # seconds, in which threads that still spin after one way give up their core to the next
LOOK_EVERY = 0.02  # seconds between two looks at the memory


def benchmark(
    name: str, options: type, description: str | None, run: Callable[[Any], dict[str, Any]]
) -> Callable[..., int]:
    """Return the `main` of `python -m benchmarks.NAME`. `run` takes the options and returns the record for `report`."""

    def main(argv: list[str] | None = None) -> int:
        return parse(options, argv, f"benchmarks.{name}", description, run, partial(report, name))

    return main


@dataclass(frozen=True)
class Seconds:
    """Medians over rounds. Other programs disturb the processor's time less than the clock's."""

    clock: float
    cpu: float
    """of all threads, and of processes that were started and have ended"""


def cpu_seconds() -> float:
    """Return the processor's seconds of this process and of those that it started and waited for."""
    used = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def measured(
    ways: Mapping[str, Callable[[], object]],
    rounds: int,
    case: str = "",
    before: Callable[[str], None] = lambda name: None,
    warm_up: bool = True,
) -> dict[str, Seconds]:
    """Run every way `rounds` times after once to warm up, each round beginning with another way.

    Args:
        case: begins the lines on stderr.
        before: called with a way's name before each run; its time does not count.
        warm_up: whether the ways run once before the rounds.
    """
    names = list(ways)
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in names}
    for turn in range(rounds + warm_up):
        first = turn % len(names)
        for name in names[first:] + names[:first]:
            before(name)
            time.sleep(PAUSE)
            clock, cpu = time.perf_counter(), cpu_seconds()
            ways[name]()
            seconds = time.perf_counter() - clock, cpu_seconds() - cpu
            if turn >= warm_up:
                taken[name].append(seconds)
                print(f"{case}{name}: {seconds[0]:.2f} s, {seconds[1]:.2f} s of CPU", file=sys.stderr)
    return {name: Seconds(median(c for c, _ in times), median(p for _, p in times)) for name, times in taken.items()}


def times(seconds: Mapping[str, Seconds], count: int, unit: str, **facts: Any) -> list[Row]:
    """Return a line for each way: the milliseconds of one of `count` units, by the clock and of the processor."""
    return [
        {
            **facts,
            "way": way,
            f"ms a {unit}": round(took.clock / count * 1e3, 3),
            f"CPU ms a {unit}": round(took.cpu / count * 1e3, 3),
        }
        for way, took in seconds.items()
    ]


def timed(work: Callable[[], Result]) -> tuple[float, Result]:
    """Return the seconds that `work` took, and its result."""
    begin = time.perf_counter()
    result = work()
    return time.perf_counter() - begin, result


def race(case: str, speed: float, peer_speed: float, wanted: float | None, peer: str) -> Row:
    """Return whether our speed is at least `wanted` times that of a peer, a ceiling or a target; None: no target.

    Times are compared with their places exchanged: `race(case, peer_seconds, seconds, ...)`.
    """
    ratio = round(speed / peer_speed, 3)
    met = wanted is None or ratio >= wanted
    return {"case": case, "compared with": peer, "ratio": ratio, "wanted": wanted, "met": met}


def races(case: str, seconds: Mapping[str, Seconds], ours: str, wanted: Mapping[str, float | None]) -> list[Row]:
    """Return the race of our way against each way in `wanted`, by the clock."""
    return [race(case, seconds[peer].clock, seconds[ours].clock, least, peer) for peer, least in wanted.items()]


def report(name: str, record: Mapping[str, Any]) -> None:
    """Print each list of rows of the record as a table, the races that are lost, and all of it as one JSON line."""
    for fact, value in record.items():
        if not isinstance(value, list):
            print(f"{fact}: {value}")
        elif value:
            frame = pl.DataFrame(value, infer_schema_length=None)
            print_table(frame, frame.columns, name if fact == "rows" else fact)
    lost = [f"\n  {one['case']} ({one['compared with']})" for one in record["races"] if not one["met"]]
    print(f"lost {len(lost)} of {len(record['races'])}" + "".join(lost))
    machine = {"machine": platform.machine(), "cores": cores(), "python": platform.python_version()}
    print(json.dumps({"benchmark": name, **record, **machine}))


@dataclass(frozen=True)
class Measured:
    """What some work took, and what it returned."""

    seconds: float
    peak: int
    """bytes of private memory: without mapped files, whose pages the kernel drops when memory is short"""
    result: Any


def private_bytes() -> int:
    """Return the memory of this process without mapped files."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return int(status["RssAnon"].split()[0]) * 1024


def apart(work: Callable[..., Any], *arguments: Any) -> Measured:
    """Run `work` in a process of its own, whose memory is measured."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(watched, work, arguments).result()


def watched(work: Callable[..., Any], arguments: tuple[Any, ...]) -> Measured:
    """Run `work` in this process and measure it."""
    peaks, over = [private_bytes()], threading.Event()

    def look() -> None:
        while not over.wait(LOOK_EVERY):
            peaks.append(max(peaks.pop(), private_bytes()))

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        seconds, result = timed(lambda: work(*arguments))
    finally:
        over.set()
        thread.join()
    return Measured(seconds, max(*peaks, private_bytes()), result)


def write_view(
    place: Path | str,
    name: str,
    features: Mapping[str, Feature],
    blocks: Iterable[tuple[pl.DataFrame, Mapping[str, np.ndarray]]],
    rows_per_shard: int | None = None,
) -> View:
    """Write a new store with one view of clips. `blocks` are rows of the catalog with their features."""
    store = Store.open(place, create=True)
    provenance = Provenance("synthetic", "0" * 64, "last", "1", "", {key: form.dtype for key, form in features.items()})
    with store.writer("clips", name, provenance, features, rows_per_shard=rows_per_shard) as writer:
        for frame, arrays in blocks:
            writer.write(frame, arrays)
    return store.view("clips", name)


def render_kitchen(folder: Path, videos: int) -> tuple[Path, pl.DataFrame]:
    """Render a sample world of 384 x 288, 12 frames/s, if `folder` has none of that size.

    Returns:
        Its folder, and its clips: clip, video (a path), start, end (seconds), split.
    """
    world = folder / f"kitchen_{videos}"
    kitchen.run(kitchen.Options(world, videos=videos))
    return world, pl.read_csv(world / "clips.csv").with_columns(video=pl.format("{}/{}", pl.lit(str(world)), "video"))


def write_tiny_lm(folder: Path) -> str:
    """Write a small Llama with random weights, a byte-level tokenizer and a chat template; return its folder."""
    import torch
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    control = ["<|end|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate(control + alphabet)}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    special = {"eos_token": "<|im_end|>", "additional_special_tokens": ["<|im_start|>"]}
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, **special)
    fast.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": len(vocabulary)}
    ends = vocabulary["<|im_end|>"]
    # with the usual initializer_range of 0.02 a random model hardly depends on its input
    config = LlamaConfig(**sizes, eos_token_id=ends, bos_token_id=None, tie_word_embeddings=True, initializer_range=0.2)
    LlamaForCausalLM(config).save_pretrained(folder)
    return str(folder)
