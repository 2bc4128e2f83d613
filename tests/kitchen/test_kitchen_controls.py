"""Guarantees of kitchen.controls."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from common.errors import StepDiffError
from kitchen.attributes import CATEGORY_ATTRIBUTES, Attributes, differences
from kitchen.controls import MostDifferences
from kitchen.world import Clip, make_world
from tasks.testsets import DiffMCQ


class Catalog:
    """A store of which only the catalog is there, of the clips of a rendered world."""

    def __init__(self, path: Path, columns: dict[str, list[str]]) -> None:
        self.path, self._frame = path, pl.DataFrame(columns)

    def catalog(self, entity: str) -> "Catalog":
        assert entity == "clips"
        return self

    def frame(self) -> pl.DataFrame:
        return self._frame


@pytest.fixture(scope="module")
def clips() -> list[Clip]:
    return [clip for video in make_world(6, 3) for clip in video.clips]


def write(clips: list[Clip], folder: Path) -> None:
    folder.mkdir()
    lines = [json.dumps({"clip": clip.id, **clip.truth.as_dict()}) + "\n" for clip in clips]
    (folder / "attributes.jsonl").write_text("".join(lines))


@pytest.fixture
def store(clips: list[Clip], tmp_path: Path) -> Any:
    """The store of a world, with the folders of that world and of another one next to it."""
    write(clips, tmp_path / "kitchen")
    write([clip for video in make_world(6, 4) for clip in video.clips], tmp_path / "another")
    columns = {"key": "id", "video": "video", "step": "step"}
    rows = [{"id": c.id, "video": f"videos/{c.video}.mp4", "step": c.truth.step} for c in clips]
    rows.append({"id": "picture_0_1", "video": "images/picture.jpg", "step": ""})
    return Catalog(tmp_path / "features", {name: [row[own] for row in rows] for name, own in columns.items()})


@pytest.fixture
def control(store: Any) -> MostDifferences:
    return MostDifferences(store, None, "cpu")


def naive(category: str, one: Attributes, other: Attributes) -> int:
    """Count attributes of one value that differ."""
    names = [name for name in CATEGORY_ATTRIBUTES[category] if name not in ("extras", "sequence")]
    return sum(getattr(one, name) != getattr(other, name) for name in names)


def test_an_option_scores_the_number_of_its_differences_and_ties_are_broken_at_random_the_same_way_every_time(
    control: MostDifferences, clips: list[Clip]
) -> None:
    pairs = [
        (one, other) for one in clips for other in clips if one is not other and one.truth.step == other.truth.step
    ]
    rows = []
    for category in ("Tools/Equipment", "Technique", "Visuals", "Actions"):
        for place in range(0, len(pairs) - 3, 4):
            options = tuple((one.id, other.id) for one, other in pairs[place : place + 4])
            rows.append(DiffMCQ("any text", category, options, options[0]))
    found = control.score_options(rows)
    assert len(rows) > 20 and found == [control.score_options([row])[0] for row in rows]
    truth = {clip.id: clip.truth for clip in clips}
    for row, scores in zip(rows, found, strict=True):
        assert len(set(scores)) == 4
        counts = [
            naive(row.category, truth[one], truth[other])
            if row.category != "Actions"
            else len(differences("Actions", truth[one], truth[other]))
            for one, other in row.options
        ]
        assert [int(score) for score in scores] == counts


def test_clips_of_different_steps_have_no_differences(control: MostDifferences, clips: list[Clip]) -> None:
    first = clips[0]
    others = [clip for clip in clips if clip.truth.step != first.truth.step][:4]
    options = tuple((first.id, other.id) for other in others)
    (scores,) = control.score_options([DiffMCQ("any text", "Visuals", options, options[0])])
    assert all(0 <= score < 1 for score in scores)


def test_a_store_whose_videos_are_not_of_a_rendered_world_is_refused_in_one_line(
    store: Any, control: MostDifferences, clips: list[Clip], tmp_path: Path
) -> None:
    for columns, message in (
        ({"key": ["a"]}, "its catalog has no columns video and step"),
        ({"key": ["a"], "video": ["videos/a.mp4"], "step": ["stir"]}, "no world of its clips"),
    ):
        other: Any = Catalog(tmp_path / "features", columns)
        with pytest.raises(StepDiffError, match=message):
            MostDifferences(other, None, "cpu")
    far: Any = Catalog(tmp_path / "elsewhere/features", store.frame().to_dict(as_series=False))
    with pytest.raises(StepDiffError, match="no world of its clips"):
        MostDifferences(far, None, "cpu")
    options = (("a_0_1", "b_0_1"), *(("a_0_1", f"{name}_0_1") for name in "cde"))
    with pytest.raises(StepDiffError, match="a_0_1: not a clip of the rendered world"):
        control.score_options([DiffMCQ("any text", "Visuals", options, options[0])])


def test_the_world_is_a_folder_next_to_the_store_or_where_the_paths_of_videos_lead(
    store: Any, control: MostDifferences, clips: list[Clip], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert control.truth == {clip.id: clip.truth for clip in clips}, "not those of the other world"
    far: Any = Catalog(tmp_path / "elsewhere/features", store.frame().to_dict(as_series=False))
    monkeypatch.chdir(tmp_path / "kitchen")
    assert MostDifferences(far, None, "cpu").truth == control.truth
    write(clips, tmp_path / "copy")
    assert MostDifferences(store, None, "cpu").truth == control.truth, "a copy of the world"
    write(clips[:-1], tmp_path / "part")
    with pytest.raises(StepDiffError, match="several worlds of its clips"):
        MostDifferences(store, None, "cpu")
