"""Guarantees of heads/methods/captions_cosine.py, and the baseline of ConViS-Bench that it is."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from common.errors import StepDiffError
from heads.data.clip_texts import ClipTexts, write_texts
from heads.methods.captions_cosine import CaptionsCosine
from tasks import registry
from tasks.benchmarks.convis.files import CONCEPTS
from tasks.benchmarks.rows import Ranking, Rating
from tasks.testsets import DiffRank
from weights import resolve

DATA = Path(__file__).parents[3] / "shared/data/convis"
CAPTIONS = DATA / "captions_mPLUG-Owl3-7B.json"
SAID = {"1_0": "a b", "2_0": " a b \n", "3_0": "b", "4_0": "c"}


class Letters:
    """Embeddings that count letters."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        self.asked += texts
        counts = np.array([[text.count(letter) for letter in "abc"] for text in texts], np.float32)
        return counts / np.linalg.norm(counts, axis=1, keepdims=True)


@pytest.fixture
def method(tmp_path: Path) -> CaptionsCosine:
    write_texts(tmp_path / "texts.parquet", "caption", SAID, {"model": "m"})
    made = CaptionsCosine(ClipTexts(tmp_path / "texts.parquet"))
    made.sentences = Letters()  # type: ignore[assignment]
    return made


def test_written_texts_read_back(method: CaptionsCosine) -> None:
    assert (method.texts.texts, method.texts.kind) == (SAID, "caption")
    assert method.texts.provenance == ['{"model": "m"}']


def test_published_texts_have_the_kind_text_and_no_provenance(tmp_path: Path) -> None:
    (tmp_path / "captions.json").write_text(json.dumps(SAID))
    (tmp_path / "captions").mkdir()
    for clip, text in SAID.items():
        (tmp_path / "captions" / f"{clip}.txt").write_text(text)
    for name in ("captions.json", "captions"):
        found = ClipTexts(tmp_path / name)
        assert (found.texts, found.kind, found.provenance) == (SAID, "text", [])
    for content, said in (
        ("[]", "not a JSON object"),
        ('{"a": 1}', "not one object {clip: text}"),
        ("{", "not a JSON"),
    ):
        (tmp_path / "captions.json").write_text(content)
        with pytest.raises(StepDiffError, match=f"captions.json: {said}"):
            ClipTexts(tmp_path / "captions.json")
    with pytest.raises(StepDiffError, match="nothing.json: cannot be read"):
        ClipTexts(tmp_path / "nothing.json")
    (tmp_path / "empty").mkdir()
    with pytest.raises(StepDiffError, match="no Parquet file of texts and no CLIP.txt"):
        ClipTexts(tmp_path / "empty")


def test_clips_with_the_same_text_have_cosine_1(method: CaptionsCosine) -> None:
    rows = [
        Rating("1", ("1_0", "2_0"), "location"),
        Rating("2", ("1_0", "3_0"), "location"),
        Ranking("3", "4_0", ("1_0", "4_0"), "location"),
        DiffRank("3_0", ("1_0", "4_0"), "Visuals", (5, 0)),
    ]
    found = method.rank(rows)
    half = np.sqrt(0.5)
    assert [list(map(float, row)) for row in found] == [
        pytest.approx(row, abs=1e-6) for row in ([1], [half], [0, 1], [half, 0])
    ]


def test_a_clips_text_is_embedded_once_however_many_rows_have_it(method: CaptionsCosine) -> None:
    method.rank([Rating(str(i), ("1_0", clip), "location") for i, clip in enumerate(("2_0", "3_0", "3_0"))])
    method.rank([Rating("3", ("4_0", "3_0"), "location")])  # the next batch
    method.rank([Rating("4", ("4_0", "3_0"), "location")])
    assert method.sentences.asked == ["a b", "b", "c"]  # type: ignore[attr-defined]


def test_a_batch_does_not_change_an_embedding(method: CaptionsCosine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heads.methods.captions_cosine.BLOCK", 2)
    method.rank([Rating("1", ("1_0", "2_0"), "location")])
    assert method.sentences.asked == ["a b", "b"], "the block of the text"  # type: ignore[attr-defined]
    method.rank([Rating("1", ("4_0", "2_0"), "location")])
    assert method.sentences.asked == ["a b", "b", "c"]  # type: ignore[attr-defined]


def test_a_clip_without_a_text_is_named(method: CaptionsCosine) -> None:
    with pytest.raises(StepDiffError, match="9_0: no text of kind 'caption'"):
        method.rank([Rating("1", ("1_0", "9_0"), "location")])


def test_published_captions_have_the_figures_of_the_published_baseline() -> None:
    if not CAPTIONS.is_file():
        pytest.skip("the captions of ConViS-Bench are not here")
    try:
        resolve("minilm-l6")
    except StepDiffError as problem:
        pytest.skip(str(problem))
    benchmark = registry.get("convis")
    asked = benchmark.read(DATA)
    scores = CaptionsCosine(ClipTexts(CAPTIONS)).rank(asked.rows)
    found = benchmark.score(asked.rows, scores, asked.truth, 0, 0)
    (row,) = [row for row in benchmark.published if row.method == "SBERT, mPLUG-Owl3-7B"]
    assert {name: round(found[name], 1) for name in row.figures} == row.figures
    assert [row.figures[f"rho {concept.name}"] for concept in CONCEPTS] == [52.1, 45.5, 55.1, 28.4, 49.9]
