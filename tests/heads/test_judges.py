"""Guarantees of heads.evaluation.judges, with a real server and models of random weights."""

import json
from pathlib import Path
from typing import Any

import pytest

from common.errors import StepDiffError
from heads import score
from heads.evaluation.judges import Answers, Entailment, JudgeOptions, load
from heads.llm.model import LLMOptions, Sampling
from heads.llm.server import ServedLLM
from tasks.benchmarks.judging import Inquiry, NoAnswer, answers
from tasks.benchmarks.vidic.files import read
from tests.llm_server import Reply, Server, said
from tests.tasks.vidic_files import write

QUESTIONS = [Inquiry(str(number), ({"role": "user", "content": f"question {number}"},)) for number in range(5)]


def served(server: Server, kept: Path | None = None) -> Any:
    return load(JudgeOptions(judge="llama", endpoint=server.url), kept, device="cpu")


def test_a_served_judge_answers_and_is_kept(server: Server, tmp_path: Path) -> None:
    judge = served(server, tmp_path / "out.judged.jsonl")
    assert judge.name == "llama (as served)"
    found = answers(judge, QUESTIONS, {"prompt": "p"})
    assert found == [f"echo: question {number}" for number in range(5)]
    assert {body["temperature"] for body in server.requests} == {0.0}
    assert answers(served(server, judge.kept), QUESTIONS, {"prompt": "p"}) == found and len(server.requests) == 5


def test_an_answer_that_failed_for_good_is_kept(server: Server, tmp_path: Path) -> None:
    server.answer = lambda body: Reply(b"too long", 400) if "3" in body["messages"][-1]["content"] else said("yes")
    judge = served(server, tmp_path / "out.judged.jsonl")
    assert answers(judge, QUESTIONS, {}) == ["yes", "yes", "yes", None, "yes"]
    lines = [json.loads(line) for line in (tmp_path / "out.judged.jsonl").read_text().splitlines()]
    (failed,) = [line for line in lines if "error" in line]
    assert failed["key"] == "3" and "refuses this prompt (400" in failed["error"]
    asked = len(server.requests)
    assert answers(judge, QUESTIONS, {})[3] is None and len(server.requests) == asked


def test_a_server_that_stops_keeps_earlier_answers(server: Server, tmp_path: Path) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        return said("yes") if len(server.requests) <= 2 else Reply(b"", 401)

    server.answer = answer
    judge = served(server, tmp_path / "out.judged.jsonl")
    slow = Answers(ServedLLM(server.url, "llama", 1, 5.0, 0), judge.name)
    with pytest.raises(
        StepDiffError, match=r"llama \(as served\): 3 questions have no answer: .*refuses the key"
    ) as caught:
        answers(type(judge)(judge.name, slow, judge.kept), QUESTIONS, {})
    assert "\n" not in str(caught.value)
    assert len((tmp_path / "out.judged.jsonl").read_text().splitlines()) == 2
    server.answer = lambda body: said("later")
    assert answers(judge, QUESTIONS, {}) == ["yes", "yes", "later", "later", "later"]


def test_a_local_judge_is_named_with_its_weights(tiny_lm: str) -> None:
    judge = load(JudgeOptions(judge=tiny_lm, judge_batch=2), None, device="cpu")
    assert judge.name == f"{tiny_lm} ({LLMOptions(llm=tiny_lm).provenance()['weights'][:12]})"
    assert judge.ask is not None and judge.embed is None and judge.agrees is None
    llm = judge.ask.llm  # type: ignore[attr-defined]
    short = dict(llm.chat([[dict(message) for message in own.messages] for own in QUESTIONS], Sampling(512)))
    assert dict(judge.ask([own.messages for own in QUESTIONS])) == {place: str(text) for place, text in short.items()}
    long = [{"role": "user", "content": "x" * 3000}]
    ((_, failed),) = judge.ask([long])
    assert isinstance(failed, NoAnswer) and "shorten the prompt" in failed.reason


def entailment_model(folder: Path, labels: tuple[str, ...]) -> str:
    """Write a classifier of text pairs with random weights."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForSequenceClassification, PreTrainedTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "the", "jump", "is", "higher", "lower", "late"]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]").save_pretrained(folder)
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


def test_an_entailment_model_compares_its_two_labels(tmp_path: Path) -> None:
    """Against the logits of each pair alone, without padding."""
    import torch

    name = entailment_model(tmp_path / "nli", ("neutral", "CONTRADICTION", "Entailment"))
    agrees = Entailment(name, "cpu")
    texts = ["the jump is higher", "the jump is lower", "late", "is the", "lower jump late is higher"]
    pairs = [(first, second) for first in texts for second in texts] * 2
    with torch.inference_mode():
        alone = [agrees.model(**agrees.tokenizer(*pair, return_tensors="pt")).logits[0] for pair in pairs]
    assert agrees(pairs) == [bool(logits[2] > logits[1]) for logits in alone]
    assert len(set(agrees(pairs))) == 2 and agrees([]) == []
    judge = load(JudgeOptions(entailment=name, sentences=True), None, device="cpu")
    assert judge.ask is None and judge.agrees is not None
    wrong = entailment_model(tmp_path / "wrong", ("positive", "contradiction"))
    with pytest.raises(StepDiffError, match="has labels positive, contradiction, not entailment; give an entailment"):
        Entailment(wrong, "cpu")


def test_texts_are_judged_by_a_command_that_continues(
    server: Server, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """heads.score judges a file of texts; once a server that refused the key answers, the command asks the rest."""
    folder = write(tmp_path / "vidic")
    rows = read(folder).rows
    predictions = tmp_path / "out.jsonl"
    predictions.write_text("".join(json.dumps({"key": row.key, "generated_text": "same"}) + "\n" for row in rows))
    argv = ["--task", "vidic", "--data", str(folder), "--predictions", str(predictions), "--bootstrap", "10"]
    argv += ["--judge", "llama", "--endpoint", server.url]
    server.answer = lambda body: said("answer: no") if "Similarities" in str(body["messages"]) else Reply(b"", 403)
    assert score.main(argv) != 0 and "refuses the key" in capsys.readouterr().err
    kept = tmp_path / "out.judged.jsonl"
    first = len(kept.read_text().splitlines())
    asked = len(server.requests)
    server.answer = lambda body: said("answer: no")
    assert score.main([*argv, "--json"]) == 0
    assert len(server.requests) - asked == 14 - first and len(kept.read_text().splitlines()) == 14
    found = json.loads(capsys.readouterr().out)
    assert (found["similarities"], found["differences"], found["errors"]) == (1.0, 0.0, 0)
    kept.write_text(kept.read_text().replace('"answer: no"', "5", 1))
    assert score.main(argv) != 0
    assert ".judged.jsonl:1: its answer is not a text; remove the file" in capsys.readouterr().err
    assert "judge: llama (as served)" in found["notes"] and found["notes"][0].startswith("control 'no difference'")


def test_options_that_name_no_judge_are_refused() -> None:
    for given, message in (
        ({}, "no judge: give --judge MODEL"),
        ({"endpoint": "http://user:secret@host/v1"}, "--endpoint http://host/v1: name the model"),
        ({"judge": "x", "judge_batch": 0}, "--judge-batch 0: give 1 or more"),
        ({"entailment": "nli"}, "--entailment nli is read only with --similarity"),
        ({"judge": "x", "entailment": "nli"}, "--entailment nli is read only with --similarity"),
    ):
        with pytest.raises(StepDiffError) as caught:
            JudgeOptions(**given)  # type: ignore[arg-type]
        assert message in str(caught.value)
