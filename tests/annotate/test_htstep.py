"""Guarantees of annotate/sources/htstep.py, with small files and, if available, the published ones."""

import csv
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from annotate.sources.htstep import Step, read_annotations, read_splits, read_taxonomy
from common.errors import StepDiffError

PUBLISHED = Path(__file__).parents[3] / "shared/data/htstep"
TAXONOMY = {3: Step("Make Tea", "Boil the water."), 4: Step("Make Tea", "Serve.")}


def write(path: Path, value: Any) -> Path:
    path.write_text(value if isinstance(value, str) else json.dumps(value))
    return path


def annotated(segments: str, subset: str = "train", video: str = "a_b-C") -> str:
    return f'{{"{video}": {{"subset": "{subset}", "activity": "Make Tea", "annotations": [{segments}]}}}}'


def test_a_segments_clip_id_contains_its_seconds_as_the_file_writes_them(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.json", annotated('{"id": 3, "segment": [75.29841, 114.30]}, {"id": 4, "segment": [102, 111]}')
    )
    segments, unusable = read_annotations(path, TAXONOMY)
    assert [s.clip for s in segments] == ["a_b-C_75.29841_114.30", "a_b-C_102_111"]
    assert [(s.video, s.start, s.end, s.step_id, s.split) for s in segments] == [
        ("a_b-C", 75.29841, 114.3, 3, "train"),
        ("a_b-C", 102.0, 111.0, 4, "train"),
    ]
    assert segments[0].step == TAXONOMY[3] and not unusable


def test_a_video_in_two_splits_is_refused(tmp_path: Path) -> None:
    splits = read_splits(write(tmp_path / "s.json", {"train": ["a"], "val_seen": ["b"], "test_unseen": ["c"]}))
    assert splits == {"a": "train", "b": "val", "c": "test"}
    with pytest.raises(StepDiffError, match="video a is of train and of test"):
        read_splits(write(tmp_path / "t.json", {"train": ["a"], "test_seen": ["a"]}))
    with pytest.raises(StepDiffError, match="subset 'dev' is of none"):
        read_splits(write(tmp_path / "u.json", {"dev": ["a"]}))
    path = write(tmp_path / "a.json", annotated('{"id": 3, "segment": [1, 2]}', video="c"))
    with pytest.raises(StepDiffError, match="video c is of train here and of test in the splits"):
        read_annotations(path, TAXONOMY, splits)
    path = write(tmp_path / "d.json", annotated('{"id": 3, "segment": [1, 2]}', video="d"))
    with pytest.raises(StepDiffError, match="video d is of train here and of none in the splits"):
        read_annotations(path, TAXONOMY, splits)


def test_an_unusable_segment_is_counted_with_its_reason_and_the_others_are_kept(tmp_path: Path) -> None:
    bad = ["[5, 5]", "[7, 5]", "[-1, 5]", "[1e999, 5]", '["x", 5]', "[5]", "null"]
    rows = [f'{{"id": 3, "segment": {segment}}}' for segment in [*bad, "[1, 2]", "[1, 2]"]]
    rows.append('{"id": 99, "segment": [3, 4]}')
    segments, unusable = read_annotations(write(tmp_path / "a.json", annotated(", ".join(rows))), TAXONOMY)
    assert [s.clip for s in segments] == ["a_b-C_1_2"]
    assert unusable == {
        "its segment does not end after its start": 4,
        "its segment is not two numbers": 3,
        "its clip has a step already": 1,
        "its step is not in the taxonomy": 1,
    }


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{",
        '{"a": 1}',
        '{"a": {"subset": null, "annotations": []}}',
        '{"a": {"subset": "train"}}',
        '{"a": {"subset": "train", "annotations": [{}]}}',
    ],
)
def test_a_file_that_is_not_annotations_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(StepDiffError, match=r"a\.json: [^\n]+$"):
        read_annotations(write(tmp_path / "a.json", text), TAXONOMY)


def test_a_file_that_is_not_a_taxonomy_is_refused_in_one_line(tmp_path: Path) -> None:
    header = "global_step_index,activity,headline\n"
    for text in ("", "a,b\n1,2\n", header + "x,a,b\n", header + "1,a\n", header + "1,a,b\n1,a,c\n"):
        path = write(tmp_path / "t.csv", text)
        if text:
            with pytest.raises(StepDiffError, match=r"t\.csv: [^\n]+$"):
                read_taxonomy(path)
        else:
            assert read_taxonomy(path) == {}


@pytest.mark.parametrize("text", ['{"train": null}', '{"train": [{}]}', '{"night": []}'])
def test_a_file_that_is_not_a_list_of_splits_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(StepDiffError, match=r"s\.json: [^\n]+$"):
        read_splits(write(tmp_path / "s.json", text))


@pytest.mark.skipif(not PUBLISHED.is_dir(), reason="the published HT-Step files are not here")
def test_the_published_taxonomy_and_splits_are_read_completely() -> None:
    steps = read_taxonomy(PUBLISHED / "taxonomy.csv")
    rows = list(csv.reader((PUBLISHED / "taxonomy.csv").read_text(encoding="utf-8").splitlines()))
    assert len(steps) == len(rows) - 1 == 4958
    assert steps[0] == Step("Make Pastel De Papa", "Make mashed potatoes.")
    assert Counter(read_splits(PUBLISHED / "video_splits.json").values()) == {"train": 17472, "val": 1563, "test": 1600}
