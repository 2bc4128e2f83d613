"""Guarantees of annotate/sources/narration.py."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotate.sources.narration import UNDECODED, UNUSABLE, Piece, heard, read_narration
from common.errors import StepDiffError

SAID = {
    "a": [Piece(0.5, 2.0, "take, the eggs"), Piece(2.0, 4.25, 'say "whisk"')],
    "b_-1": [Piece(1.0, 3.0, "now we wait")],
}


def forms(folder: Path) -> list[Path]:
    """Write one narration in each format that has start and end."""
    columns = {
        v: {"start": [p.start for p in s], "end": [p.end for p in s], "text": [p.text for p in s]}
        for v, s in SAID.items()
    }
    (folder / "caption.json").write_text(json.dumps(columns))
    rows = {v: [[1, *piece] for piece in pieces] + [[0, 0.0, 9.0, "subscribe"]] for v, pieces in SAID.items()}
    (folder / "htm_align.json").write_text(json.dumps(rows))
    (folder / "csv").mkdir()
    for video, pieces in SAID.items():
        with (folder / "csv" / f"{video}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("", "start", "end", "text"), *((i, *piece) for i, piece in enumerate(pieces))])
    return [folder / "caption.json", folder / "htm_align.json", folder / "csv"]


def test_all_formats_of_one_narration_give_the_same_speech(tmp_path: Path) -> None:
    for path in forms(tmp_path):
        faults = Counter[str]()
        assert dict(read_narration(path, ["a", "b_-1", "not there"], faults)) == SAID, path
        assert dict(read_narration(path, ["a"], faults)) == {"a": SAID["a"]}, path
        assert not +faults


def test_a_sentence_with_one_time_belongs_to_the_clip_that_contains_it(tmp_path: Path) -> None:
    path = tmp_path / "htm_aa_v1.csv"
    path.write_text('vid,timestamp,text\na,9,rest it\nb,4,other\na,4,"knead, a little"\n')
    ((video, pieces),) = read_narration(path, ["a"], Counter())
    assert (video, heard(pieces, 4.0, 9.0), heard(pieces, 2.0, 4.0), heard(pieces, 8.5, 9.5)) == (
        "a",
        "knead, a little",
        "",
        "rest it",
    )


TENTHS = st.integers(0, 80).map(lambda tenth: tenth / 10)


@settings(deadline=None)
@given(st.lists(st.tuples(TENTHS, TENTHS), max_size=8), TENTHS, st.integers(1, 30))
def test_speech_of_a_clip_is_what_overlaps_it_in_time_in_order_of_time(
    times: list[tuple[float, float]], start: float, tenths: int
) -> None:
    end = (round(start * 10) + tenths) / 10
    pieces = sorted(Piece(*sorted(pair), f"piece{number}") for number, pair in enumerate(times))
    moments = {tenth / 10 + 0.05 for tenth in range(round(start * 10), round(end * 10))}
    expected = [
        piece.text
        for piece in pieces
        if any(piece.start <= moment < piece.end for moment in moments)
        or (piece.start == piece.end and start <= piece.start < end)
    ]
    assert heard(pieces, start, end).split() == expected


def test_pieces_without_text_or_time_are_left_out_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "raw_caption.json"
    texts = ["one", float("nan"), " ", None, 5, "two", "three", "four"]
    times = [1.0, 2.0, 3.0, 4.0, 5.0, None, float("nan"), 0.5]
    path.write_text(
        json.dumps({"a": {"start": times, "end": [9.0] * 8, "text": texts}, "b": {"start": [], "end": [], "text": []}})
    )
    faults = Counter[str]()
    found = dict(read_narration(path, ["a", "b"], faults))
    assert found == {"a": [Piece(0.5, 9.0, "four"), Piece(1.0, 9.0, "one")], "b": []}
    assert +faults == {UNUSABLE: 6}


def test_a_byte_that_is_not_utf_8_becomes_u_fffd_and_is_counted(tmp_path: Path) -> None:
    folder = tmp_path / "csv"
    folder.mkdir()
    (folder / "a.csv").write_bytes(b"start,end,text\n1,2,a caf\xe9 \x00here\n2,3,fine\n")
    faults = Counter[str]()
    assert dict(read_narration(folder, ["a"], faults)) == {"a": [Piece(1, 2, "a caf\ufffd here"), Piece(2, 3, "fine")]}
    assert +faults == {UNDECODED: 1}


def test_hours_of_text_are_read(tmp_path: Path) -> None:
    path = tmp_path / "caption.json"
    path.write_text(json.dumps({"a": {"start": [0.0], "end": [36000.0], "text": ["word " * 200_000]}}))
    ((_, pieces),) = read_narration(path, ["a"], Counter())
    assert len(heard(pieces, 10.0, 20.0).split()) == 200_000


@pytest.mark.parametrize("value", [{"start": [1], "end": [2]}, {"start": [1], "end": [2], "text": []}, [[1, 2]], 5])
def test_a_video_with_lists_of_different_lengths_is_named(tmp_path: Path, value: object) -> None:
    path = tmp_path / "caption.json"
    path.write_text(json.dumps({"a": value}))
    with pytest.raises(StepDiffError, match="caption.json: video a has no lists"):
        list(read_narration(path, ["a"], Counter()))


def test_a_csv_without_its_columns_is_named(tmp_path: Path) -> None:
    (tmp_path / "n.csv").write_text("start,end,text\n1,2,a\n")
    with pytest.raises(StepDiffError, match="n.csv: no column timestamp"):
        list(read_narration(tmp_path / "n.csv", ["a"], Counter()))
