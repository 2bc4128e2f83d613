"""Evaluation on other people's benchmarks: heads/evaluation/rows.py, heads/reporting/tables.py, and what StepDiff
chooses and writes."""

import json
from pathlib import Path

import pytest
import torch

from heads import evaluate, report, score
from heads import table as table_of_systems
from heads.data.clips import Features
from heads.data.packing import Turn
from heads.evaluation import loading
from heads.evaluation.evaluation import identity
from heads.evaluation.loading import Loaded
from heads.evaluation.options import EvaluateOptions
from heads.methods.stepdiff import StepDiff
from heads.models.language_model import LanguageModel
from heads.models.projector import Projector
from heads.models.video_lm import VideoLM
from heads.training.recipe import ProjectorOptions
from store import Store
from tasks import registry
from tasks.benchmarks.rows import Choice, Writing
from tasks.prompts import system
from tests.tasks.viddiff_files import benchmark as viddiff
from tests.tasks.vidic_files import pair, write

CLIPS = [f"video-_{i}_0.0_{i + 1}.5" for i in range(24)]
OPTIONS = ("They use a whisk.", "They use a fork.", "They use a spoon.", "They do nothing.")


@pytest.fixture
def seeing(world: Path, tiny_lm: str, monkeypatch: pytest.MonkeyPatch) -> StepDiff:
    """Replace the method video-lm with an untrained model in float32."""
    features = Features(Store.open(world / "features"), "visual", "tokens")
    lm = LanguageModel.load(tiny_lm, "cpu")
    torch.manual_seed(3)
    projector = Projector(ProjectorOptions(16, 2, outputs=4), *features.shape, lm.width, 1.0)
    method = StepDiff(VideoLM(lm, projector, 4), features)
    monkeypatch.setattr(loading, "_load", lambda *_: Loaded(method))
    return method


@pytest.fixture
def crossvid(tmp_path: Path) -> Path:
    """A folder of CrossVid's CC: questions about two and three clips of the small world."""
    questions = [
        {
            "id": number,
            "videos": [f"{clip}.mp4" for clip in CLIPS[number : number + 2 + number % 2]],
            "question": "Which tool does the first video use?",
            "options": [f"{letter}. {text}" for letter, text in zip("ABCD", OPTIONS, strict=True)],
            "answer": "ABCD"[number % 4],
        }
        for number in range(8)
    ]
    (tmp_path / "crossvid" / "QA").mkdir(parents=True)
    (tmp_path / "crossvid" / "QA" / "CC.json").write_text(json.dumps(questions))
    return tmp_path / "crossvid"


def command(world: Path, folder: Path, out: Path, *more: str) -> list[str]:
    given = ["--task", "crossvid-cc", "--data", str(folder), "--store", str(world / "features"), "--out", str(out)]
    return [*given, "--bootstrap", "20", *more]


def test_a_line_of_a_benchmarks_predictions_names_its_row(
    world: Path, seeing: StepDiff, crossvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--task", "crossvid-cc", "--data", str(crossvid), "--bootstrap", "20"]
    out = tmp_path / "said.jsonl"
    assert evaluate.main(command(world, crossvid, out, "--method", "video-lm", "--rows-at-once", "3")) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["key"] for line in lines] == [str(number) for number in range(8)]
    record = json.loads(out.with_suffix(".scores.json").read_text())
    right = sum(max(range(4), key=line["scores"].__getitem__) == place % 4 for place, line in enumerate(lines))
    assert record["scores"]["accuracy"] == right / 8
    assert score.main([*given, "--predictions", str(out), "--json"]) == 0
    found = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert found.pop("method").keys() == {"regime", "control"} and found == record["scores"]
    assert score.main([*given, "--predictions", str(out), "--export", str(tmp_path / "theirs")]) == 0
    assert "exported: " in capsys.readouterr().err and list((tmp_path / "theirs").rglob("*.json"))
    part = tmp_path / "part.jsonl"
    assert evaluate.main(command(world, crossvid, part, "--method", "video-lm", "--subset", "2,5")) == 0
    assert [json.loads(line)["key"] for line in part.read_text().splitlines()] == ["2", "5"]


def test_an_option_is_scored_as_the_answer_to_a_prompt_that_shows_its_clips(seeing: StepDiff) -> None:
    rows = [Choice(str(count), tuple(CLIPS[:count]), "Which tool?", OPTIONS) for count in (3, 1, 2)]
    found = seeing.choose(rows)
    for row, scores in zip(rows, found, strict=True):
        clips = seeing.model.project(seeing.features.read(list(row.clips)))
        turns = [Turn("Which tool?", option) for option in OPTIONS]
        alone = [seeing.model.log_likelihoods([[turn]], clips, True, len(row.clips))[0][0] for turn in turns]
        assert scores == pytest.approx(alone, abs=1e-4)
    assert found[0] != pytest.approx(found[2], abs=1e-3)


def test_a_system_prompt_shows_each_clip() -> None:
    assert system(1).count("{video}") == 1
    assert system(2).endswith("Here is Video 1: {video}. Here is Video 2: {video}.")
    assert system(4).endswith("Here is Video 3: {video}. Here is Video 4: {video}.")


def test_texts_are_written_about_any_number_of_clips(seeing: StepDiff, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("heads.methods.stepdiff.MOST_TOKENS_OF_TEXT", 4)
    rows = [Writing(str(count), tuple(CLIPS[:count]), "What differs?") for count in (2, 3)]
    texts = seeing.write(rows)
    assert [seeing.write([row])[0] for row in rows] == texts
    assert all(texts)


def test_a_published_row_is_marked_and_names_its_source(
    world: Path, crossvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "chance.jsonl"
    assert evaluate.main(command(world, crossvid, out, "--method", "random")) == 0
    config = tmp_path / "report.yaml"
    config.write_text(f"benchmarks:\n- {{method: random scores, predictions: {out}}}\n")
    assert report.main(["--config", str(config), "--out", str(tmp_path / "report")]) == 0
    table = (tmp_path / "report" / "report.md").read_text()
    published = table[table.index("_as published_") :]
    assert "random scores" in table[: table.index("_as published_")]
    assert "Gemini-2.5-Pro" in published and "0.547" in published
    assert "As published: README of github.com/chuntianli666/CrossVid" in table


def test_a_table_names_the_rows_and_the_judge_of_each_method_and_has_the_chance_of_the_most_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, given = [], {"options": {"task": "crossvid-cc"}}
    for name, rows, level, more in (("part", 3, 0.9, ()), ("whole", 9, 0.25, ("judge: lm",))):
        scores = {"accuracy": 0.5, "rows": rows, "intervals": {}, "chance": {"accuracy": level}}
        record = given | {"scores": scores | {"notes": ["of all", *more]}}
        (tmp_path / f"{name}.scores.json").write_text(json.dumps(record))
        lines.append(f"- {{method: {name}, predictions: {tmp_path / name}.jsonl}}")
    config, out = tmp_path / "report.yaml", tmp_path / "report"
    config.write_text("\n".join(["benchmarks:", *lines]))
    assert report.main(["--config", str(config), "--out", str(out)]) == 0
    table = (out / "report.md").read_text()
    assert "part (3 rows)" in table and "whole: judge: lm" in table and "0.250" in table and "0.900" not in table
    assert "of all" in table and ": of all" not in table
    capsys.readouterr()
    for record in (given, {"options": {"task": "diffmcq"}, "scores": {"rows": 1, "intervals": {}}}, {"options": [1]}):
        (tmp_path / "part.scores.json").write_text(json.dumps(record))
        assert report.main(["--config", str(config)]) == 2
        assert "no score record of a benchmark next to it" in capsys.readouterr().err
    assert table_of_systems.main([str(tmp_path / "whole.scores.json")]) == 2
    said = capsys.readouterr().err
    assert "crossvid-cc is a benchmark of others; python -m heads.report has its table" in said


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--subset", "20"), "subset: '20' is not a key, concept or clip of the benchmark"),
        (("--test-set", "x.jsonl"), "--task crossvid-cc needs --data FOLDER, and no other source of rows"),
        (("--task", "crossvid"), "--task crossvid: no such task; give one of diffcap, "),
        (("--method", "rarest"), "--method rarest does not answer crossvid-cc: its class has no function choose"),
        (("--seeded",), None),
        (("--no-seeded",), "--seeded is for diffcap, and crossvid-cc does not read it"),
    ],
)
def test_an_option_that_a_benchmark_does_not_read_is_refused(
    world: Path, crossvid: Path, tmp_path: Path, more: tuple[str, ...], said: str | None,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    status = evaluate.main(command(world, crossvid, tmp_path / "x.jsonl", "--method", "random", *more))
    assert status == (0 if said is None else 2)
    assert said is None or said in capsys.readouterr().err


def test_no_file_of_a_benchmark_is_overwritten(
    world: Path, crossvid: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    theirs, ours = crossvid / "list.jsonl", crossvid / "said.jsonl"
    theirs.write_text("{}\n")
    assert evaluate.main(command(world, crossvid, theirs, "--method", "random")) == 2
    assert "would overwrite a file of --data; name another --out" in capsys.readouterr().err
    assert theirs.read_text() == "{}\n"
    for _ in range(2):
        assert evaluate.main(command(world, crossvid, ours, "--method", "random")) == 0


def test_texts_of_another_judge_are_not_written_again() -> None:
    rows = [Writing("a", ("1", "2"), "What differs?")]
    options = [
        EvaluateOptions("viddiff-open", "random", "x.jsonl", data="x", judge=judge, entailment=other, similarity=both)
        for judge, other, both in (("one", None, False), ("two", None, False), (None, "nli", True))
    ]
    first, *others = [identity(each, rows, None) for each in options]
    assert others == [first, first]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--task", "diffcapp"), "--task diffcapp: no such task; give one of diffcap, "),
        (("--task", "viddiff-open", "--parse", "true"), "--parse is for diffcap, and viddiff-open does not read it"),
        (("--task", "vidic", "--entailment", "nli"), "--entailment is for viddiff-open, and vidic does not read it"),
        (("--task", "convis", "--judge", "lm"), "--judge is for viddiff-open, vidic, and convis does not read it"),
    ],
)
def test_an_option_that_a_scored_benchmark_does_not_read_is_refused(
    more: tuple[str, ...], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert score.main([*more, "--data", "x", "--predictions", "x.jsonl"]) == 2
    assert said in capsys.readouterr().err


def test_an_export_of_some_rows_keeps_the_places_of_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The authors' scorer of VidDiffBench joins predictions with pairs by their places."""
    folder = viddiff(tmp_path / "viddiff")
    rows = registry.get("viddiff-closed").read(folder).rows
    said = tmp_path / "said.jsonl"
    said.write_text(json.dumps({"key": rows[-1].key, "scores": [0, 1]}) + "\n")
    given = ["--task", "viddiff-closed", "--data", str(folder), "--predictions", str(said), "--bootstrap", "0"]
    assert score.main([*given, "--export", str(tmp_path / "theirs")]) == 0
    assert json.loads((tmp_path / "theirs/predictions.json").read_text()) == [{}, {}, {}, {}, {}, {"7": "b"}]


def test_a_benchmark_needs_its_folder(world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--task", "crossvid-cc", "--method", "random", "--store", str(world / "features")]
    assert evaluate.main([*given, "--out", str(tmp_path / "x.jsonl")]) == 2
    assert "--task crossvid-cc needs --data FOLDER" in capsys.readouterr().err


def test_texts_are_judged_by_a_language_model_and_its_answers_are_kept(
    world: Path, seeing: StepDiff, tiny_lm: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("heads.methods.stepdiff.MOST_TOKENS_OF_TEXT", 4)
    monkeypatch.setattr("heads.evaluation.judges.LONGEST", 4)
    pairs = [pair(number, 1, 2) for number in range(3)]
    for number, own in enumerate(pairs):
        own |= {"video1_path": CLIPS[number], "video2_path": CLIPS[number + 1]}
    data, out = write(tmp_path / "vidic", pairs), tmp_path / "said.jsonl"
    given = ["--task", "vidic", "--data", str(data), "--bootstrap", "0"]
    judged = [*given, "--judge", tiny_lm]
    command = [*judged, "--store", str(world / "features"), "--method", "video-lm", "--out", str(out)]
    assert evaluate.main(command) == 0
    kept = out.with_suffix(".judged.jsonl").read_text().splitlines()
    assert len(kept) == 9
    scores = json.loads(out.with_suffix(".scores.json").read_text())["scores"]
    assert any(note.startswith(f"judge: {tiny_lm} (") for note in scores["notes"])
    assert score.main([*judged, "--predictions", str(out)]) == 0
    assert out.with_suffix(".judged.jsonl").read_text().splitlines() == kept, "no question is asked twice"
    out.write_text(
        "".join(
            json.dumps(json.loads(line) | {"generated_text": "\ud800"}) + "\n" for line in out.read_text().splitlines()
        )
    )
    assert score.main([*judged, "--predictions", str(out)]) == 0, "half a character is no text for a tokenizer"


def test_a_task_that_needs_a_judge_is_refused_without_one(
    world: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["--task", "vidic", "--data", str(write(tmp_path / "vidic")), "--store", str(world / "features")]
    assert evaluate.main([*given, "--method", "random", "--out", str(tmp_path / "x.jsonl")]) == 2
    assert "no judge: give --judge MODEL" in capsys.readouterr().err
    judge = ["--judge", str(tmp_path / "no model")]
    assert evaluate.main([*given, "--method", "random", *judge, "--out", str(tmp_path / "x.jsonl")]) == 2
    assert "no model" in capsys.readouterr().err and not (tmp_path / "x.jsonl").exists()


def test_the_help_names_every_benchmark(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        evaluate.main(["--help"])
    words = set(capsys.readouterr().out.replace(",", " ").split())
    assert words >= set(registry.names())
