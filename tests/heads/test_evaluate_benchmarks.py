"""Evaluation on other people's benchmarks, and the judges of texts, with a real server and models
of random weights."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from heads import evaluate, report, score
from heads.data.packing import Turn
from heads.evaluation.judges import Entailment, check, load
from heads.methods.stepdiff import StepDiff
from heads.score import ScoreOptions
from heads.training.run_record import load_video_lm
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks import registry
from stepdiff_core.tasks.benchmarks.judging import Inquiry, answers
from stepdiff_core.tasks.benchmarks.rows import Choice, Writing
from stepdiff_core.tasks.benchmarks.vidic import read
from store import Store
from tests.llm_server import Reply, Server, said
from tests.refusals import refuses
from tests.tasks.viddiff_files import benchmark as viddiff
from tests.tasks.vidic_files import pair, write

from .conftest import CLIPS, Capture

OPTIONS = ("They use a whisk.", "They use a fork.", "They use a spoon.", "They do nothing.")


@pytest.fixture(scope="module")
def seeing(world: Path, frozen: Path) -> StepDiff:
    model, features, _ = load_video_lm(frozen, Store.open(world / "features"))
    return StepDiff(model, features)


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
    arguments = [
        "--task",
        "crossvid-cc",
        "--data",
        str(folder),
        "--store",
        str(world / "features"),
        "--out",
        str(out),
    ]
    return [*arguments, "--bootstrap", "20", *more]


def test_a_line_of_a_benchmarks_predictions_names_its_row(
    world: Path, frozen: Path, crossvid: Path, tmp_path: Path, capsys: Capture
) -> None:
    arguments = ["--task", "crossvid-cc", "--data", str(crossvid), "--bootstrap", "20"]
    out, head = (
        tmp_path / "said.jsonl",
        ["--method", "video-lm", "--head", str(frozen), "--allow-seen"],
    )
    assert evaluate.main(command(world, crossvid, out, *head, "--rows-at-once", "3")) == 0
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    assert [line["key"] for line in lines] == [str(number) for number in range(8)]
    record = json.loads(out.with_suffix(".scores.json").read_text())
    right = sum(
        max(range(4), key=line["scores"].__getitem__) == place % 4
        for place, line in enumerate(lines)
    )
    assert record["scores"]["accuracy"] == right / 8
    capsys.readouterr()
    assert score.main([*arguments, "--predictions", str(out), "--json"]) == 0
    again = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert again.pop("method").keys() == {"regime", "control"} and again.pop("seen")["clips"] == 10
    assert again == record["scores"]
    assert (
        score.main([*arguments, "--predictions", str(out), "--export", str(tmp_path / "theirs")])
        == 0
    )
    assert "exported: " in capsys.readouterr().err and list((tmp_path / "theirs").rglob("*.json"))
    part = tmp_path / "part.jsonl"
    assert evaluate.main(command(world, crossvid, part, *head, "--subset", "2,5")) == 0
    assert [json.loads(line)["key"] for line in part.read_text().splitlines()] == ["2", "5"]


def test_an_option_is_scored_as_an_answer_about_its_clips(seeing: StepDiff) -> None:
    rows = [Choice(str(count), tuple(CLIPS[:count]), "Which tool?", OPTIONS) for count in (3, 1, 2)]
    with torch.inference_mode():
        chosen = seeing.choose(rows)
        for row, scores in zip(rows, chosen, strict=True):
            clips = seeing.model.project(seeing.features.read(list(row.clips)))
            turns = [Turn("Which tool?", option) for option in OPTIONS]
            alone = [
                seeing.model.log_likelihoods([[turn]], clips, True, len(row.clips))[0][0]
                for turn in turns
            ]
            assert scores == pytest.approx(alone, abs=1e-4)
    assert chosen[0] != pytest.approx(chosen[2], abs=1e-3)


@pytest.mark.full
def test_texts_are_written_about_any_number_of_clips(seeing: StepDiff) -> None:
    rows = [Writing(str(count), tuple(CLIPS[:count]), "What differs?") for count in (2, 3)]
    with torch.inference_mode():
        texts = seeing.write(rows)
        assert [seeing.write([row])[0] for row in rows] == texts and all(texts)


def test_a_published_row_is_marked_and_names_its_source(
    world: Path, crossvid: Path, tmp_path: Path, capsys: Capture
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


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--subset", "20"), "subset: '20' is not a key, concept or clip of the benchmark"),
        (
            ("--test-set", "x.jsonl"),
            "--task crossvid-cc needs --data FOLDER, and no other source of rows",
        ),
        (("--task", "crossvid"), "--task crossvid: no such task; give one of diffcap, "),
        (("--method", "rarest"), "--method rarest does not answer crossvid-cc"),
        (("--no-seeded",), "--seeded is for diffcap, and crossvid-cc does not read it"),
        (("--out", "{data}/list.jsonl"), "would overwrite a file of --data; name another --out"),
        (("--task", "vidic", "--data", "{vidic}"), "no judge: give --judge MODEL"),
        (("--task", "vidic", "--data", "{vidic}", "--judge", "no model"), "no model"),
    ],
)
def test_an_option_that_a_benchmark_does_not_read_is_refused(
    world: Path,
    crossvid: Path,
    tmp_path: Path,
    more: tuple[str, ...],
    message: str,
    capsys: Capture,
) -> None:
    (crossvid / "list.jsonl").write_text("{}\n")
    arguments = [one.format(data=crossvid, vidic=write(tmp_path / "vidic")) for one in more]
    refuses(
        evaluate.main,
        command(world, crossvid, tmp_path / "x.jsonl", "--method", "random", *arguments),
        capsys,
        message,
    )
    assert not (tmp_path / "x.jsonl").exists()
    assert (crossvid / "list.jsonl").read_text() == "{}\n"


@pytest.mark.full
def test_an_export_of_some_rows_keeps_the_places_of_all(tmp_path: Path, capsys: Capture) -> None:
    """The authors' scorer of VidDiffBench joins predictions with pairs by their places; a missing
    one counts wrong."""
    folder = viddiff(tmp_path / "viddiff")
    rows = registry.get("viddiff-closed").read(folder).rows
    replies = tmp_path / "said.jsonl"
    replies.write_text(json.dumps({"key": rows[-1].key, "scores": [0, 1]}) + "\n")
    arguments = [
        "--task",
        "viddiff-closed",
        "--data",
        str(folder),
        "--predictions",
        str(replies),
        "--bootstrap",
        "0",
    ]
    assert score.main([*arguments, "--export", str(tmp_path / "theirs"), "--json"]) == 0
    assert json.loads((tmp_path / "theirs/predictions.json").read_text()) == [
        {},
        {},
        {},
        {},
        {},
        {"7": "b"},
    ]
    scores = json.loads(capsys.readouterr().out)
    assert (scores["accuracy"], scores["missing"], scores["rows"]) == (1 / 12, 11, 12)
    assert scores["notes"][-1] == "11 of 12 rows have no prediction and count wrong"


@pytest.mark.full
def test_answers_of_a_judge_are_kept(
    world: Path, frozen: Path, tiny_lm: str, tmp_path: Path
) -> None:
    pairs = [pair(number, 1, 2) for number in range(3)]
    for number, own in enumerate(pairs):
        own |= {"video1_path": CLIPS[number], "video2_path": CLIPS[number + 1]}
    data, out = write(tmp_path / "vidic", pairs), tmp_path / "said.jsonl"
    arguments = ["--task", "vidic", "--data", str(data), "--bootstrap", "0"]
    judged = [*arguments, "--judge", tiny_lm]
    command = [*judged, "--store", str(world / "features"), "--method", "video-lm"]
    command += ["--head", str(frozen), "--allow-seen", "--out", str(out)]
    assert evaluate.main(command) == 0
    kept = out.with_suffix(".judged.jsonl").read_text().splitlines()
    assert len(kept) == 9
    scores = json.loads(out.with_suffix(".scores.json").read_text())["scores"]
    assert any(note.startswith(f"judge: {tiny_lm} (") for note in scores["notes"])
    assert score.main([*judged, "--predictions", str(out)]) == 0
    assert out.with_suffix(".judged.jsonl").read_text().splitlines() == kept, (
        "no question is asked twice"
    )
    out.write_text(
        "".join(
            json.dumps(json.loads(line) | {"generated_text": "\ud800"}) + "\n"
            for line in out.read_text().splitlines()
        )
    )
    assert score.main([*judged, "--predictions", str(out)]) == 0, (
        "half a character is no text for a tokenizer"
    )


QUESTIONS = [
    Inquiry(str(number), ({"role": "user", "content": f"question {number}"},))
    for number in range(5)
]


def options(**given: Any) -> ScoreOptions:
    return ScoreOptions("viddiff-open", "out.jsonl", device="cpu", **given)


def served(server: Server, kept: Path | None = None) -> Any:
    return load(options(judge="llama", endpoint=server.url), kept)


def test_an_answer_that_failed_for_good_is_kept(server: Server, tmp_path: Path) -> None:
    server.answer = lambda body: (
        Reply(b"too long", 400) if "3" in body["messages"][-1]["content"] else said("yes")
    )
    judge = served(server, tmp_path / "out.judged.jsonl")
    assert answers(judge, QUESTIONS, {}) == ["yes", "yes", "yes", None, "yes"]
    lines = [json.loads(line) for line in (tmp_path / "out.judged.jsonl").read_text().splitlines()]
    (failed,) = [line for line in lines if "error" in line]
    assert failed["key"] == "3" and "refuses this prompt (400" in failed["error"]
    asked = len(server.requests)
    assert answers(judge, QUESTIONS, {})[3] is None and len(server.requests) == asked


def entailment_model(folder: Path, labels: tuple[str, ...]) -> str:
    """Write a classifier of text pairs with random weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "jump", "is", "higher", "lower", "late"]
    tokenizer = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]")
    )
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]"
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(words),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        id2label=dict(enumerate(labels)),
        initializer_range=1.0,
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.full
def test_an_entailment_model_compares_its_two_labels(tmp_path: Path) -> None:
    """Against the logits of each pair alone, without padding."""
    import torch

    name = entailment_model(tmp_path / "nli", ("neutral", "CONTRADICTION", "Entailment"))
    agrees = Entailment(name, "cpu")
    texts = [
        "the jump is higher",
        "the jump is lower",
        "late",
        "is the",
        "lower jump late is higher",
    ]
    pairs = [(first, second) for first in texts for second in texts] * 2
    with torch.inference_mode():
        alone = [
            agrees.model(**agrees.tokenizer(*pair, return_tensors="pt")).logits[0] for pair in pairs
        ]
    assert agrees(pairs) == [bool(logits[2] > logits[1]) for logits in alone]
    assert len(set(agrees(pairs))) == 2 and agrees([]) == []
    judge = load(options(entailment=name, similarity=True), None)
    assert judge.ask is None and judge.agrees is not None
    wrong = entailment_model(tmp_path / "wrong", ("positive", "contradiction"))
    with pytest.raises(
        StepDiffError,
        match="has labels positive, contradiction, not entailment; give an entailment",
    ):
        Entailment(wrong, "cpu")


def test_texts_are_judged_by_a_command_that_continues(
    server: Server, tmp_path: Path, capsys: Capture
) -> None:
    """heads.score judges a file of texts; once a server that refused the key answers, the command
    asks the rest."""
    folder = write(tmp_path / "vidic")
    rows = read(folder).rows
    predictions = tmp_path / "out.jsonl"
    predictions.write_text(
        "".join(json.dumps({"key": row.key, "generated_text": "same"}) + "\n" for row in rows)
    )
    argv = [
        "--task",
        "vidic",
        "--data",
        str(folder),
        "--predictions",
        str(predictions),
        "--bootstrap",
        "10",
    ]
    argv += ["--judge", "llama", "--endpoint", server.url]
    server.answer = lambda body: (
        said("answer: no") if "Similarities" in str(body["messages"]) else Reply(b"", 403)
    )
    assert score.main(argv) != 0 and "refuses the key" in capsys.readouterr().err
    kept = tmp_path / "out.judged.jsonl"
    first = len(kept.read_text().splitlines())
    asked = len(server.requests)
    server.answer = lambda body: said("answer: no")
    assert score.main([*argv, "--json"]) == 0
    assert len(server.requests) - asked == 14 - first and len(kept.read_text().splitlines()) == 14
    record = json.loads(capsys.readouterr().out)
    assert (record["similarities"], record["differences"], record["errors"]) == (1.0, 0.0, 0)
    kept.write_text(kept.read_text().replace('"answer: no"', "5", 1))
    assert score.main(argv) != 0
    assert ".judged.jsonl:1: its answer is not a text; remove the file" in capsys.readouterr().err
    assert "judge: llama (as served)" in record["notes"] and record["notes"][0].startswith(
        "control 'no difference'"
    )


def test_options_that_name_no_judge_are_refused() -> None:
    for arguments, message in (
        ({}, "no judge: give --judge MODEL"),
        ({"endpoint": "http://user:secret@host/v1"}, "--endpoint http://host/v1: name the model"),
        ({"entailment": "nli"}, "--entailment nli is read only with --similarity"),
        ({"judge": "x", "entailment": "nli"}, "--entailment nli is read only with --similarity"),
    ):
        with pytest.raises(StepDiffError) as caught:
            check(options(**arguments))
        assert message in str(caught.value)
