"""VidDiffBench, closed: what is read, asked and scored, against scorers written from its description."""

import json
from pathlib import Path

import numpy as np
import pytest

from common.errors import StepDiffError
from tasks import registry
from tasks.benchmarks.viddiff import closed
from tasks.benchmarks.viddiff import open as opened
from tasks.benchmarks.viddiff.files import clips, read_samples
from tests.tasks.viddiff_files import SPLITS, TRUTHS, benchmark, entry, write


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return benchmark(tmp_path / "viddiff")


def test_a_statement_without_a_video_is_not_asked_about(folder: Path) -> None:
    asked = registry.get("viddiff-closed").read(folder)
    expected = [
        f"{SPLITS[number % 3]}_{number}/{key}"
        for number, truth in enumerate(TRUTHS)
        for key, letter in truth.items()
        if letter in ("a", "b")
    ]
    assert [row.key for row in asked.rows] == expected == list(asked.truth)
    first = asked.rows[0]
    assert first.clips == ("videos/0_0.mp4_0.500_3.000", "videos/0_1.mp4_0.500_3.000")
    assert "a person squats once. Of which" in first.question and '"statement 0 of 0"' in first.question
    assert first.about == "statement 0 of 0"
    assert len(first.options) == 2 and "Video 1" in first.options[0] and "Video 2" in first.options[1]
    assert asked.notes[0] == "6 pairs, 14 annotated statements (6 a, 6 b, 2 c; c is not scored)"


def test_a_statement_that_is_not_annotated_is_dropped(folder: Path) -> None:
    samples = read_samples(folder)
    expected = [[key for key, letter in truth.items() if letter is not None] for truth in TRUTHS]
    assert [list(sample.statements) for sample in samples] == expected
    assert samples[0].statements["3"].truth == "c"


def test_thumbnails_are_never_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import polars

    read, taken = polars.read_parquet, []
    monkeypatch.setattr(
        "polars.read_parquet", lambda path, columns: taken.extend(columns) or read(path, columns=columns)
    )
    read_samples(folder)
    assert "videos" in taken and not [name for name in taken if "thumbnail" in name]


def test_clips_are_slices_of_frames_in_seconds(folder: Path) -> None:
    found = list(clips(folder))
    assert len(found) == 12 == len({clip.clip for clip in found})
    assert (found[2].video, found[2].start, found[2].end) == ("videos/1_0.mp4", 0.5, 91 / 30)
    assert found[2].metadata == {"domain": "surgery", "kind": "video", "fps": "30"}


def test_a_folder_of_images_and_an_open_slice_are_clips_too(tmp_path: Path) -> None:
    videos = [
        {"path": "dive/01/frames", "fps_original": 12.5, "frames_trim": [25, None]},
        {"path": "dive/02/frames", "fps_original": 12.5, "frames_trim": [None, None]},
    ]
    more = {"videos": json.dumps(videos), "domain": None}
    first, second = clips(write(tmp_path, [entry(0, {"0": "a"}, "easy", **more)]))
    assert (first.clip, first.start, first.end) == ("dive/01/frames_2.000_end", 2.0, None)
    assert (second.clip, second.start, second.end) == ("dive/02/frames", None, None)
    assert first.metadata == {"domain": "humman", "kind": "folder of images", "fps": "12.5"}


def naive_accuracy(said: dict[str, str], split: str | None) -> float:
    """Correct / gt in {a, b}, pooled over statements."""
    right = total = 0
    for number, truth in enumerate(TRUTHS):
        if split in (None, SPLITS[number % 3]):
            for key, letter in truth.items():
                if letter in ("a", "b"):
                    total += 1
                    right += said.get(f"{SPLITS[number % 3]}_{number}/{key}") == letter
    return right / total


def test_accuracy_is_pooled_over_statements_and_averaged_over_splits(folder: Path) -> None:
    asked = closed.read(folder)
    rng = np.random.default_rng(0)
    for _ in range(20):
        scores = rng.normal(size=(len(asked.rows), 2))
        found = closed.score(asked.rows, scores.tolist(), asked.truth, 50, 0)
        said = {row.key: "ab"[own.argmax()] for row, own in zip(asked.rows, scores, strict=True)}
        each = [naive_accuracy(said, split) for split in SPLITS]
        assert [found[split] for split in SPLITS] == pytest.approx(each)
        assert found["average"] == pytest.approx(np.mean(each))
        assert found["accuracy"] == pytest.approx(naive_accuracy(said, None))
        assert found["per_category"]["fitness"]["accuracy"] == pytest.approx(each[0])
        assert found["per_category"].keys() == {"fitness", "surgery"} and "easy" not in found["per_category"]["fitness"]
        assert found["groups"] == 6 and set(found["chance"].values()) == {0.5}


def test_the_interval_draws_whole_pairs(folder: Path) -> None:
    """Recomputed from the definition: statements of a pair are drawn together."""
    from tasks.bootstrap import draw_counts, tail_share

    asked = closed.read(folder)
    right = np.arange(len(asked.rows)) % 3 > 0
    scores = [
        [1.0, 0.0] if (asked.truth[row.key].letter == "a") == bool(own) else [0.0, 1.0]
        for row, own in zip(asked.rows, right, strict=True)
    ]
    found = closed.score(asked.rows, scores, asked.truth, 200, 3)
    pairs = [asked.truth[row.key].pair for row in asked.rows]
    order = list(dict.fromkeys(pairs))
    weights = draw_counts(6, 200, 3)[:, [order.index(pair) for pair in pairs]]
    tail = tail_share(6)
    expected = np.quantile(weights @ right / weights.sum(axis=1), [tail, 1 - tail])
    assert found["intervals"]["accuracy"] == pytest.approx(expected.tolist())


def test_a_missing_prediction_counts_wrong(folder: Path, tmp_path: Path) -> None:
    asked = closed.read(folder)
    right = {row.key: asked.truth[row.key].letter for row in asked.rows}
    published = [{} for _ in TRUTHS]
    for number, sample in enumerate(read_samples(folder)):
        published[number] = {key: right.get(f"{sample.key}/{key}", "a") for key in sample.statements}
    file = tmp_path / "predictions.json"
    file.write_text(json.dumps(published))
    scores = closed.read_published(file, folder)
    assert closed.score(asked.rows, scores, asked.truth, 0, 0)["accuracy"] == 1.0
    del published[0]["1"]
    published[1] = {key: {"description": "x", "prediction": letter} for key, letter in published[1].items()}
    file.write_text(json.dumps(published))
    found = closed.score(asked.rows, closed.read_published(file, folder), asked.truth, 0, 0)
    assert (found["accuracy"], found["missing"]) == (pytest.approx(11 / 12), 1)
    assert closed.score(asked.rows, [None] * 12, asked.truth, 0, 0)["average"] == 0.0


@pytest.mark.parametrize("extra", [{"2": "a"}, {"99": "a"}])
def test_an_extra_key_is_refused(folder: Path, tmp_path: Path, extra: dict[str, str]) -> None:
    """Statement 2 of the first pair is not annotated."""
    file = tmp_path / "predictions.json"
    file.write_text(json.dumps([extra, *[{}] * 5]))
    with pytest.raises(StepDiffError, match="pair 'easy_0' has no statement '(2|99)'; remove"):
        closed.read_published(file, folder)
    file.write_text(json.dumps({"easy_0": {}, "easy_99": {}}))
    with pytest.raises(StepDiffError, match="'easy_99' is not a pair"):
        closed.read_published(file, folder)


def test_a_pair_without_a_row_has_its_place_in_an_export(tmp_path: Path) -> None:
    folder = write(tmp_path, [entry(0, {"0": "c"}, "easy"), entry(1, {"0": "b"}, "hard")])
    (listed, _) = closed.export(folder, closed.read(folder).rows, [[0.0, 1.0]], tmp_path / "out")
    assert json.loads(listed.read_text()) == [{}, {"0": "b"}]


def test_exported_predictions_are_read_again(folder: Path, tmp_path: Path) -> None:
    asked = closed.read(folder)
    scores = np.random.default_rng(1).normal(size=(len(asked.rows), 2)).tolist()
    for file in closed.export(folder, asked.rows, scores, tmp_path / "out"):
        again = closed.read_published(file, folder)
        assert [own.index(max(own)) for own in again] == [own.index(max(own)) for own in scores]  # type: ignore[union-attr]
    listed = json.loads((tmp_path / "out/predictions.json").read_text())
    assert len(listed) == 6 and listed[2].keys() == {"1"} and listed[2]["1"] in "ab"


def test_a_tie_counts_its_share(folder: Path) -> None:
    asked = closed.read(folder)
    found = closed.score(asked.rows, [[0.0, 0.0]] * len(asked.rows), asked.truth, 0, 0)
    assert (found["accuracy"], found["average"], found["ties"]) == (0.5, 0.5, 12)


def test_bad_files_give_one_line(tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match=r"has no test-\*\.parquet; get it from the folder data of jmhb"):
        closed.read(tmp_path)
    good = entry(0, {"0": "a"}, "easy")
    wrong = {
        "no column 'split'": {k: v for k, v in good.items() if k != "split"},
        "split 'x' is none of easy, medium, hard": good | {"split": "x"},
        "differences_gt is not JSON": good | {"differences_gt": "{"},
        "differences_gt '0' is 'd'": good | {"differences_gt": '{"0": "d"}'},
        "no '1'": good | {"differences_gt": '{"1": "a"}'},
        "videos are not an object with keys 0 and 1": good | {"videos": "{}"},
        "holds no frame": good
        | {"videos": json.dumps({s: {"path": "p", "fps_original": 3, "frames_trim": [4, 4]} for s in "01"})},
        "not two frame numbers from 0": good
        | {"videos": json.dumps({s: {"path": "p", "fps_original": 3, "frames_trim": [-4, 4]} for s in "01"})},
        "0], not two frame numbers from 0": good
        | {"videos": json.dumps({s: {"path": "p", "fps_original": 3, "frames_trim": [0, 10**400]} for s in "01"})},
        "fps_original of p is 0": good
        | {"videos": json.dumps({s: {"path": "p", "fps_original": 0, "frames_trim": [0, 4]} for s in "01"})},
    }
    for number, (message, row) in enumerate(wrong.items()):
        with pytest.raises(StepDiffError) as caught:
            closed.read(write(tmp_path / str(number), [row]))
        assert message in str(caught.value) and "\n" not in str(caught.value) and "again" in str(caught.value)
    (tmp_path / "damaged").mkdir()
    (tmp_path / "damaged/test-x.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(StepDiffError, match="test-x.parquet: not a whole Parquet file"):
        closed.read(tmp_path / "damaged")
    with pytest.raises(StepDiffError, match="is there twice"):
        closed.read(write(tmp_path / "twice", [good, good]))
    with pytest.raises(StepDiffError, match="pair 'easy_0' has no n_differences_open_prediction"):
        opened.read(write(tmp_path / "open", [good | {"n_differences_open_prediction": None}]))


def test_several_files_are_read_by_name(tmp_path: Path) -> None:
    data = tmp_path / "data"
    write(data, [entry(1, {"0": "a"}, "easy")], "test-00001-of-00002.parquet")
    write(data, [entry(0, {"0": "a"}, "easy")], "test-00000-of-00002.parquet")
    assert [sample.key for sample in read_samples(tmp_path)] == ["easy_0", "easy_1"]
