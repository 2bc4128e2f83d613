"""Guarantees of annotate/sources/narration.py, compared with json.load."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from annotate.sources import narration as json_object
from annotate.sources.narration import entries
from common.errors import StepDiffError

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=12,
)


@settings(deadline=None)
@given(
    st.dictionaries(st.text(max_size=6), VALUES, max_size=6),
    st.integers(1, 40),
    st.sampled_from([None, 1]),
    st.booleans(),
)
def test_the_entries_of_a_json_file_are_those_of_json_load(
    tmp_path_factory: pytest.TempPathFactory, value: dict, piece: int, indent: int | None, ascii_only: bool
) -> None:
    path = tmp_path_factory.getbasetemp() / "any.json"
    text = json.dumps(value, indent=indent, ensure_ascii=ascii_only)
    path.write_bytes(text.encode("utf-8", "replace"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(json_object, "PIECE", piece)
        found = list(entries(path))
    assert found == list(json.loads(path.read_text(encoding="utf-8")).items())


def test_memory_is_bounded_by_the_longest_entry_and_one_piece_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "large.json"
    path.write_text(json.dumps({f"video {i}": "x" * 500 for i in range(2000)}))
    longest = 0

    def measured(text: str, at: int) -> object:
        nonlocal longest
        longest = max(longest, len(text))
        return entry(text, at)

    entry = json_object._entry
    monkeypatch.setattr(json_object, "PIECE", 1000)
    monkeypatch.setattr(json_object, "_entry", measured)
    assert len(list(entries(path))) == 2000
    assert longest < 3000 < path.stat().st_size / 100


def test_a_byte_that_is_not_utf_8_becomes_u_fffd_and_loses_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "bad.json"
    path.write_bytes(b'{"a": "caf\xe9", "b": "tab\there", "c": 1}')
    assert list(entries(path)) == [("a", "caf\ufffd"), ("b", "tab\there"), ("c", 1)]


@pytest.mark.parametrize(
    "text",
    ["", "[1]", '{"a": 1', '{"a" 1}', '{"a": 1 "b": 2}', '{"a": tru', "{a: 1}", '{"a": 1,', '{"a": 1} x', "{} {}"],
)
def test_a_damaged_file_is_refused_at_the_damage(tmp_path: Path, text: str) -> None:
    path = tmp_path / "damaged.json"
    path.write_text(text)
    with pytest.raises(StepDiffError, match="damaged.json: (damaged after entry|not a JSON object)"):
        list(entries(path))


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match="none.json: cannot be read"):
        list(entries(tmp_path / "none.json"))
