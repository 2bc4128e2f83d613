"""Guarantees of annotate.grounding.scorers."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
import polars as pl
import pytest
import torch

from annotate.captioners.vision import pictures
from annotate.grounding.row_set import RowSet
from annotate.grounding.scorers import GROUNDED, MOST, SCORES, Detector, DetectorJob, Space, SpaceJob, kept, objects
from annotate.stages.job import Answer, Failure, Item
from common.errors import StepDiffError
from heads.data.clips import Features
from store import Feature, Provenance, Store

from .conftest import CLIPS
from .vision_models import grounding_dino, owlv2

NAMES = ["a red egg", "whisk", "bowl of a very long name that no text tower reads to its end at all"]


def scores(answer: Answer) -> dict[str, float]:
    assert not isinstance(answer, Failure)
    return {message["object"]: message["score"] for message in json.loads(answer[SCORES])}


def test_exactly_the_objects_with_a_score_above_zero_are_kept() -> None:
    answer = kept(["eggs", "pan", "whisk", "Crème"], [0.3, 0.0, -0.1, 1e-9])
    assert isinstance(answer, dict) and answer[GROUNDED] == "eggs\nCrème"
    assert list(scores(answer)) == ["eggs", "pan", "whisk", "Crème"]
    assert kept([], []) == {GROUNDED: "", SCORES: "[]"}


def test_objects_are_listed_once_one_per_line_without_bullets() -> None:
    texts = "- white eggs\n2. a whisk.\n* white eggs\n\n(3) 2 bowls,\n• pan\n1) Q: what?"
    assert objects(texts) == ["white eggs", "a whisk", "2 bowls", "pan", "Q: what?"]
    assert objects("1.5 liter bottle") == ["1.5 liter bottle"]
    assert objects("white eggs, a whisk, and a 1,5 l pan.") == ["white eggs", "a whisk", "a 1,5 l pan"]
    assert len(objects("\n".join(f"thing {i}" for i in range(1000)))) == MOST
    assert objects("- a long one " * 1000) == ["a long one - a long one - a long one - a long one -"]


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> list[Item]:
    path = tmp_path_factory.mktemp("video") / "video.mp4"
    noise = np.random.default_rng(0).integers(0, 256, (40, 64, 96, 3), dtype=np.uint8)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", rate=20)
        stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
        for picture in noise:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        container.mux(stream.encode(None))
    texts = ["\n".join(NAMES), "whisk", "", None]
    return [
        {"key": CLIPS[i], "video": str(path), "start": i * 0.4, "end": i * 0.4 + 0.4, "objects": text}
        for i, text in enumerate(texts)
    ]


@pytest.fixture(scope="module")
def detectors(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("detectors")
    return {make.__name__: make(folder / make.__name__) for make in (owlv2, grounding_dino)}


def detector(folder: Path, threshold: float = 0.0) -> Detector:
    return DetectorJob(str(folder), threshold, {}).load("cpu", 1)


def best_box(case: str, folder: Path, item: Item, name: str) -> float:
    """Return the best box's score for a single object, from transformers' post-processing."""
    import transformers

    transformers.utils.logging.disable_progress_bar()
    process = transformers.AutoProcessor.from_pretrained(folder)
    model = transformers.AutoModelForZeroShotObjectDetection.from_pretrained(folder).eval()
    shown = dict(pictures([item], 1, 1, {}))[item["key"]]
    assert isinstance(shown, list)
    text: Any = [[name]] if case == "owlv2" else [f"{name}."]
    inputs = process(text=text, images=shown, truncation=True, return_tensors="pt")
    with torch.inference_mode():
        outputs = model(**inputs)
    size = [shown[0].size[::-1]]
    found = process.post_process_grounded_object_detection(outputs, threshold=0.0, target_sizes=size)
    return float(found[0]["scores"].max())


@pytest.mark.parametrize("case", ["owlv2", "grounding_dino"])
def test_the_score_of_an_object_is_that_of_its_best_box(
    detectors: dict[str, Path], clips: list[Item], case: str
) -> None:
    made = detector(detectors[case])
    found = dict(made.annotate(clips))
    for item in clips[:2]:
        message = scores(found[item["key"]])
        assert list(message) == item["objects"].split("\n")
        for name, score in message.items():
            assert score == pytest.approx(best_box(case, detectors[case], item, name), abs=1e-5)
    assert len(set(scores(found[CLIPS[0]]).values())) == 3 and made.busy > 0
    assert found[CLIPS[2]] == {GROUNDED: "", SCORES: "[]"}
    failed = found[CLIPS[3]]
    assert isinstance(failed, Failure) and "run python -m annotate.captions" in failed.reason


@pytest.mark.parametrize("case", ["owlv2", "grounding_dino"])
def test_a_score_is_0_below_the_threshold(detectors: dict[str, Path], clips: list[Item], case: str) -> None:
    message = scores(dict(detector(detectors[case]).annotate(clips[:1]))[CLIPS[0]])
    middle = sorted(message.values())[1]
    answer = dict(detector(detectors[case], middle - 1e-6).annotate(clips[:1]))[CLIPS[0]]
    assert scores(answer) == {name: score if score >= middle else 0.0 for name, score in message.items()}
    assert isinstance(answer, dict) and answer[GROUNDED].split("\n") == [n for n in NAMES if message[n] >= middle]
    made = DetectorJob(str(detectors[case]), 0.25, {"captions-objects": "abc"}).provenance()
    assert made["threshold"] == 0.25 and made["reads"] == {"captions-objects": "abc"}


def test_a_clip_that_cannot_be_decoded_fails_alone(detectors: dict[str, Path], clips: list[Item]) -> None:
    late = {**clips[0], "key": "late", "start": 90.0, "end": 91.0}
    found = dict(detector(detectors["owlv2"]).annotate([clips[0], late, clips[1]]))
    assert isinstance(found["late"], Failure) and "begins at 90 s" in found["late"].reason
    assert found[CLIPS[0]] == dict(detector(detectors["owlv2"]).annotate(clips[:1]))[CLIPS[0]]


VECTORS = {f"thing {i}": np.random.default_rng(i).standard_normal(8).astype(np.float32) for i in range(4)}


def rows(count: int) -> RowSet:
    """Return the first rows of the catalog."""
    return RowSet.of([np.arange(count)])


def embed(texts: Sequence[str]) -> torch.Tensor:
    return torch.from_numpy(np.stack([VECTORS[text] for text in texts]))


@pytest.fixture
def space_store(store: Store) -> Store:
    """Five of the six clips have embeddings."""
    with store.lock():
        made = Provenance("clip", "0" * 64, "last", "8", "none", {"embedding": "float32"})
        view = store.create_view("clips", "clip", made, {"embedding": Feature((8,), "float32")}, rows_per_shard=8)
        view.resize()
        values = np.random.default_rng(9).standard_normal((5, 8)).astype(np.float32)
        view.write_shard(0, np.arange(5), {"embedding": values}, {})
    return store


def test_the_score_is_a_difference_of_cosines(space_store: Store) -> None:
    """Compared with a loop over the other clips."""
    features = Features(space_store, "clip", "embedding")
    clips, names = CLIPS[:5], list(VECTORS)
    space = Space(features, embed, rows(5))
    vectors = features.read(clips).numpy().astype(float)

    def cosine(a: np.ndarray, b: np.ndarray) -> float:
        return float(a @ b / np.linalg.norm(a) / np.linalg.norm(b))

    items = [{"key": key, "objects": "\n".join(names)} for key in clips]
    for place, (key, answer) in enumerate(space.annotate(items)):
        assert key == clips[place]
        for name, score in scores(answer).items():
            own = cosine(vectors[place], VECTORS[name])
            others = [cosine(vector, VECTORS[name]) for i, vector in enumerate(vectors) if i != place]
            assert score == pytest.approx(own - sum(others) / len(others), abs=2e-6)
    assert space.busy > 0


def test_a_clip_without_embedding_or_caption_fails_alone(space_store: Store) -> None:
    space = Space(Features(space_store, "clip", "embedding"), embed, rows(5))
    texts = ["thing 0", None, "", "thing 1"]
    items = [{"key": key, "objects": text} for key, text in zip([*CLIPS[:3], CLIPS[5]], texts, strict=True)]
    found = dict(space.annotate(items))
    assert list(scores(found[CLIPS[0]])) == ["thing 0"] and found[CLIPS[2]] == {GROUNDED: "", SCORES: "[]"}
    for key, message in ((CLIPS[1], "no object caption"), (CLIPS[5], "no embedding in view clip")):
        failed = found[key]
        assert isinstance(failed, Failure) and message in failed.reason
    with pytest.raises(StepDiffError, match="view clip has 1 of the clips; a mean needs 2 or more"):
        Space(Features(space_store, "clip", "embedding"), embed, rows(1))


def test_embeddings_of_another_model_than_the_views_are_refused(space_store: Store, tmp_path: Path) -> None:
    from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel, CLIPTokenizer
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    from .vision_models import SMALL, VISION, saved

    letters = list(bytes_to_unicode().values())
    pieces = letters + [letter + "</w>" for letter in letters] + ["<|startoftext|>", "<|endoftext|>"]
    tokenizer = CLIPTokenizer(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[])
    ends = {"bos_token_id": len(pieces) - 2, "eos_token_id": len(pieces) - 1}
    config = CLIPConfig(
        text_config={**SMALL, **ends, "vocab_size": len(pieces), "max_position_embeddings": 20},
        vision_config=VISION,
        projection_dim=8,
    )
    folder = saved(tmp_path / "clip", CLIPModel(config), tokenizer)
    CLIPImageProcessorPil(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    job = SpaceJob(str(space_store.path), "clip", None, str(folder), rows(5), "5", {})
    with pytest.raises(StepDiffError, match="view clip was made with other weights .* than those of --weights"):
        job.load("cpu", 1)

    from featurize.encoders import load

    encoder = load("clip", str(folder), "cpu")
    with space_store.lock():
        shape = {"embedding": Feature((8,), "float32")}
        view = space_store.create_view("clips", "own", encoder.provenance("clips"), shape, rows_per_shard=8)
        view.resize()
        values = np.random.default_rng(9).standard_normal((5, 8)).astype(np.float32)
        view.write_shard(0, np.arange(5), {"embedding": values}, {})
    job = SpaceJob(str(space_store.path), "own", None, str(folder), rows(5), "5", {})
    space = job.load("cpu", 1)
    assert isinstance(space, Space)
    text = torch.from_numpy(encoder.encode_texts(["a red egg"])["embedding"])[0]
    unit = torch.nn.functional.normalize(torch.from_numpy(values), dim=-1)
    expected = text @ (unit[0] - unit[1:].mean(0))
    assert space.scores(CLIPS[0], ["a red egg"])[0] == pytest.approx(float(expected), abs=1e-5)
    other = SpaceJob(str(space_store.path), "own", None, str(folder), rows(4), "4", {})
    assert job.provenance() != other.provenance()  # the mean over other clips changes the scores


def test_the_command_reports_missing_input(
    space_store: Store, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from annotate import ground

    store = ["--store", str(space_store.path)]
    for more, message in (
        ([], "give --view, a space of clips and texts, or --model, a detector"),
        (["--model", "x"], "a detector needs both --model and --videos"),
        (["--view", "clip", "--threshold", "2"], "a score lies between 0 and 1"),
        (["--view", "clip"], "no captions-objects in it yet; run python -m annotate.captions"),
    ):
        assert ground.main([*store, *more]) == 2
        assert message in capsys.readouterr().err
    assert pl.DataFrame(space_store.catalog("clips").frame()).height == 6
