"""Guarantees of heads.workers.read_ahead."""

import threading
from pathlib import Path

import pytest

from common.errors import StepDiffError
from heads import train
from heads.training.video_task import VideoTask
from heads.workers.read_ahead import ReadAhead

from .conftest import SYSTEMS, recipe
from .ends import assert_same_weights


@pytest.mark.parametrize("mine_every", [0, 2])
def test_training_with_and_without_reading_ahead_is_the_same_bit_for_bit(
    mine_every: int, world: Path, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, taken = VideoTask.read, ReadAhead.take
    order: list[tuple[str, int]] = []

    def reads(task: VideoTask, batch: int) -> object:
        order.append(("read", batch))
        return read(task, batch)

    def takes(ahead: ReadAhead, batch: int) -> object:
        made = taken(ahead, batch)
        order.append(("taken", batch))
        return made

    monkeypatch.setattr(VideoTask, "read", reads)
    monkeypatch.setattr(ReadAhead, "take", takes)
    hard = {"neighbours": 2, "mine_every": mine_every}
    more = {"sources": list(SYSTEMS["StepDiff"]), "hard_negatives": hard}
    schedule = {"steps": 6, "accumulate": 2, "warmup": 2, "validate_every": 6}
    for name in ("ahead", "without"):
        with monkeypatch.context() as patched:
            if name == "without":
                patched.setattr(VideoTask, "expect", lambda task, batch: None)
            path = recipe(world, tiny_lm, tmp_path / name, schedule=schedule, **more)
            assert train.main(["--config", str(path)]) == 0
    assert_same_weights(tmp_path / "ahead", tmp_path / "without")
    read_in_order = [number for what, number in order if what == "read"]
    assert read_in_order == [*range(12), *range(12)], "each batch is read once, in order"
    assert [what for what, _ in order[24:]] == ["read", "taken"] * 12, "without, a batch is read when it is used"
    if mine_every:  # what a search for neighbours changes is not read before it
        for number in (4, 8):
            assert order.index(("read", number)) > order.index(("taken", number - 1))


def test_a_batch_is_read_while_the_one_before_it_is_used() -> None:
    threads: dict[int, int] = {}
    begun = {number: threading.Event() for number in range(3)}

    def read(number: int) -> int:
        threads[number] = threading.get_ident()
        begun[number].set()
        return number * 10

    ahead = ReadAhead(read, "cpu")
    ahead.following = 1
    assert ahead.take(0) == 0
    assert begun[1].wait(30) and not begun[2].is_set(), "one batch ahead, and no more"
    assert ahead.take(1) == 10 and ahead.take(2) == 20
    assert threading.get_ident() not in threads.values()


def test_an_error_of_a_batch_that_is_read_ahead_is_raised_where_the_batch_is_used() -> None:
    def read(number: int) -> int:
        if number == 1:
            raise StepDiffError("a damaged row")
        return number

    ahead = ReadAhead(read, "cpu")
    ahead.following = 1
    assert ahead.take(0) == 0
    with pytest.raises(StepDiffError, match="a damaged row"):
        ahead.take(1)
