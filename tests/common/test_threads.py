"""Guarantees of common.threads."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.threads import cgroup_cores, prefetched


def test_prefetched_items_come_in_order_and_are_few() -> None:
    made: list[int] = []

    def things() -> Iterator[int]:
        for number in range(20):
            made.append(number)
            yield number

    taken = []
    for number in prefetched([things()], waiting=2):
        time.sleep(0.005)
        taken.append(number)
        assert len(made) <= len(taken) + 3  # two wait, one is being made
    assert taken == list(range(20))


def test_making_goes_on_while_one_is_used() -> None:
    """Ten things of 20 ms, each used for 20 ms, take far less than 400 ms."""

    def things() -> Iterator[int]:
        for number in range(10):
            time.sleep(0.02)
            yield number

    begin = time.monotonic()
    for _ in prefetched([things()]):
        time.sleep(0.02)
    assert time.monotonic() - begin < 0.36


def test_an_error_reaches_the_caller() -> None:
    def things() -> Iterator[int]:
        yield 1
        raise KeyError("two")

    left = prefetched([things()])
    assert next(left) == 1
    with pytest.raises(KeyError, match="two"):
        next(left)


def test_a_caller_who_stops_early_stops_the_threads() -> None:
    before = threading.active_count()
    left = prefetched([iter(range(1000))])
    assert next(left) == 0
    left.close()  # type: ignore[attr-defined]
    assert threading.active_count() == before


def test_items_of_many_sources_come_once() -> None:
    sources = [range(10 * n, 10 * n + 10) for n in range(7)]
    assert sorted(prefetched(sources, threads=3)) == list(range(70))


@pytest.mark.parametrize(
    ("groups", "files", "cores"),
    [
        ("0::/a/b\n", {"a/cpu.max": "250000 100000\n", "a/b/cpu.max": "max 100000\n"}, 3),
        ("0::/a\n", {"cpu.max": "50000 100000\n", "a/cpu.max": "400000 100000\n"}, 1),
        ("0::/pod/of/the/host\n", {"cpu.max": "200000 100000\n"}, 2),
        ("0::/\n", {"cpu.max": "max 100000\n"}, None),
        (
            "3:cpuset:/a\n2:cpu,cpuacct:/a\n0::/\n",
            {"cpu/a/cpu.cfs_quota_us": "150000\n", "cpu/a/cpu.cfs_period_us": "50000\n"},
            3,
        ),
        ("1:cpu:/\n", {"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ("1:memory:/\n", {"cpu/cpu.cfs_quota_us": "100000\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        (None, {}, None),
    ],
)
def test_cores_are_those_that_the_cgroups_allow(
    tmp_path: Path, groups: str | None, files: dict[str, str], cores: int | None
) -> None:
    """Of version 2 and of version 1, of the group and of those above it, and as a container sees them."""
    contents = {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in (contents if groups is None else {**contents, "proc/self/cgroup": groups}).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    assert cgroup_cores(tmp_path) == cores
