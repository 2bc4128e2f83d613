"""Rows that are selected, and clips that are absent."""

from pathlib import Path

import pytest

from common.errors import StepDiffError
from heads.evaluation.loading import absent_clips
from heads.evaluation.rows import named, select
from store import Store
from tasks.testsets import DiffCap, DiffMCQ, DiffRank

OPTIONS = (("a_0_1", "b_0_1"), ("v-_x_0_1", "d_0_1"), ("e_0_1", "f_0_1"), ("g_0_1", "h_0_1"))
ROWS = [
    DiffCap("a_0_1", "b_0_1", "Visuals", ("x",)),
    DiffMCQ("x", "Serving / Presentation", OPTIONS, OPTIONS[1]),
    DiffRank("a_2_3", ("b_0_1",), "Actions", (5,)),
    DiffRank("b_0_1", ("a_0_1",), "Actions", (5,)),
]


@pytest.mark.parametrize(
    ("names", "places"),
    [
        (["Actions"], [2, 3]),
        (["Serving / Presentation"], [1]),
        (["a"], [0, 2]),
        (["a_2_3"], [2]),
        (["v-_x"], [1]),
        (["b", "Visuals", "a_0_1"], [0, 3]),
    ],
)
def test_rows_keep_the_order_of_the_test_set(names: list[str], places: list[int]) -> None:
    assert select(ROWS, names) == [ROWS[place] for place in places]


def test_every_name_selects_a_row_or_is_refused() -> None:
    with pytest.raises(StepDiffError, match="subset: 'h_0_1' is not a category, reference video or .* test set$"):
        named(ROWS, "a,h_0_1")
    with pytest.raises(StepDiffError, match=r"subset: 'actions' is not a .* \(2 such names\)"):
        named(ROWS, "actions,b_0_9")
    assert named(ROWS, "Actions, v-_x,b_0_1,") == ["Actions", "v-_x", "b_0_1"]


def test_names_are_lines_of_a_file_or_separated_by_commas(tmp_path: Path) -> None:
    comma = DiffCap("a_0_1", "b_0_1", "Tools, and so on", ("x",))
    (tmp_path / "names.txt").write_text("Serving / Presentation\n\n Tools, and so on \n")
    assert named([*ROWS, comma], str(tmp_path / "names.txt")) == ["Serving / Presentation", "Tools, and so on"]
    many = [f"video_{number}_0_1" for number in range(99)]  # more characters than a file name can have
    assert named([DiffRank(clip, ("b_0_1",), "Actions", (5,)) for clip in many], ",".join(many)) == many
    (tmp_path / "none.txt").write_text("\n")
    for empty in (str(tmp_path / "none.txt"), " ,"):
        with pytest.raises(StepDiffError, match="no names"):
            named(ROWS, empty)


def test_names_of_rows_are_not_read_as_a_files_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("Visuals").write_text("Actions\n")
    assert named(ROWS, "Visuals") == ["Visuals"]
    assert named(ROWS, "./Visuals") == ["Actions"]


def test_absent_clips_are_those_without_features(world: Path, tmp_path: Path) -> None:
    store = Store.open(world / "features")
    row = DiffRank("video-_0_0.0_1.5", ("no_0_1", "video-_1_0.0_2.5", "no_0_1", "never_0_1"), "Visuals", (1, 2, 3, 4))
    assert absent_clips([row, row], store, "visual") == ["no_0_1", "never_0_1"]
    assert absent_clips([row], store, None) == ["no_0_1", "never_0_1"]
    empty = Store.open(tmp_path / "empty", create=True)
    assert len(absent_clips([row], empty, None)) == 4
