"""Guarantees of annotate.describe, and the clips that stages select."""

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from annotate import describe
from annotate.describe import DescribeJob, Describer, one_line
from annotate.grounding.scorers import GROUNDED, SCORES
from annotate.qa.prompts import DESCRIBE, Message
from annotate.stages import stage
from annotate.stages.job import Failure
from annotate.stages.stage import clip_blocks
from annotate.stages.versions import SCHEMA, Version, chosen
from common.errors import StepDiffError
from common.io import sealed as table
from heads.data.clip_texts import ClipTexts
from heads.llm.model import CutOff, LLMOptions, Sampling
from store import Store
from store.io.status import REASONS
from tests.llm_server import Server, said

from .conftest import CLIPS

SYSTEM = (
    "You are an AI assistant that synthesizes the output of narration, action and object captioning models into a "
    "single description of the content."
)
END = (
    "Summarize the captions into a single, descriptive sentence about what the person is doing, and using what objects."
)


def item(key: str, narration: str | None, action: str | None, objects: str | None) -> dict[str, Any]:
    return {"key": key, "narration": narration, "action_caption": action, "object_caption": objects}


class Recorder:
    """A language model that repeats its prompt."""

    busy = 0.0

    def chat(self, conversations: Sequence[Sequence[Message]], sampling: Sampling) -> Iterator[tuple[int, str]]:
        for place in reversed(range(len(conversations))):
            yield place, json.dumps(conversations[place])


def test_missing_captions_are_waited_for() -> None:
    asked = [item("a", "we whisk", None, "eggs"), item("b", "we whisk", "a hand whisks", None)]
    found = dict(Describer(Recorder(), Sampling(), DESCRIBE, words=200).annotate(asked))
    reasons = {key: answer.reason for key, answer in found.items() if isinstance(answer, Failure)}
    assert "run python -m annotate.captions" in reasons["a"] and "run python -m annotate.ground" in reasons["b"]


def test_the_language_model_reads_the_supplements_prompt_with_the_texts_of_this_clip() -> None:
    asked = [
        item("a", "okay so\nnow we whisk.", "A hand whisks eggs.", "- white eggs\n- a metal whisk"),
        item("b", None, "Q: what?\nA: a pan", ""),
        item("c", "{narration} {0} Q: x", "A hand stirs.", ""),
        item("d", "we stir", "", "pan"),
    ]
    found = dict(Describer(Recorder(), Sampling(), DESCRIBE, words=200).annotate(asked))
    texts = {key: json.loads(answer["step description"]) for key, answer in found.items()}  # type: ignore[index]
    assert all(messages[0] == {"role": "system", "content": SYSTEM} for messages in texts.values())
    fields = {
        "a": ("okay so now we whisk", "A hand whisks eggs", "white eggs, a metal whisk"),
        "b": ("none", "Q: what? A: a pan", "none"),
        "c": ("{narration} {0} Q: x", "A hand stirs", "none"),
        "d": ("we stir", "none", "pan"),
    }
    for key, (narration, action, objects) in fields.items():
        user = f"Video narration: {narration}.\nPossible activity: {action}.\nPossible objects: {objects}.\n{END}"
        assert texts[key][1] == {"role": "user", "content": user}


class Stopped:
    """A language model whose answer is cut by the token limit."""

    busy = 0.0

    def __init__(self, text: str) -> None:
        self.text = text

    def chat(self, conversations: Sequence[Sequence[Message]], sampling: Sampling) -> Iterator[tuple[int, str]]:
        yield from ((place, CutOff(self.text)) for place in range(len(conversations)))


@pytest.mark.parametrize(
    ("written", "kept"),
    [("A hand whisks 1.5 cups. It uses a", "A hand whisks 1.5 cups."), ("A hand whisks in a", "A hand whisks in a")],
)
def test_a_sentence_that_was_cut_by_the_token_limit_is_left_out_after_a_complete_one(written: str, kept: str) -> None:
    describer = Describer(Stopped(written), Sampling(), DESCRIBE, words=200)
    assert dict(describer.annotate([item("a", "we whisk", "A hand whisks.", "")])) == {"a": {"step description": kept}}


def test_a_prompt_fits_with_hours_of_narration_and_without_any() -> None:
    hours = "and now we whisk\n" * 200_000
    assert one_line(hours, " ", 6) == "and now we whisk and now"
    assert one_line("half \ud83d\0 of it", " ", 200) == "half ? of it"
    for nothing in (None, "", " \n\t", "."):
        assert one_line(nothing, " ", 6) == "none"


def test_a_clip_without_an_action_caption_fails_and_the_reason_gives_the_command() -> None:
    found = dict(Describer(Recorder(), Sampling(), DESCRIBE, 9).annotate([item("a", "x", None, "y")]))
    assert isinstance(found["a"], Failure) and "run python -m annotate.captions" in found["a"].reason


def caption(store: Store, stage: str, texts: dict[str, dict[str, str]], made: str = "a head") -> Version:
    """Write a version of a stage as an earlier run would."""
    version = Version(store, stage, {"model": made})
    version.create()
    rows = [(key, kind, text, version.line) for key, message in texts.items() for kind, text in message.items()]
    version.write(0, pl.DataFrame(rows, schema=SCHEMA, orient="row"), pl.DataFrame(schema=REASONS))
    return version


@pytest.fixture
def captioned(store: Store) -> Store:
    caption(store, "captions-action", {key: {"action": f"Hand {i} whisks."} for i, key in enumerate(CLIPS[:5])})
    caption(store, "ground", {key: {GROUNDED: f"whisk {i}", SCORES: "[]"} for i, key in enumerate(CLIPS)})
    return store


def job_of(options: describe.DescribeOptions, monkeypatch: pytest.MonkeyPatch) -> tuple[DescribeJob, pl.DataFrame]:
    """Return the job and the items that `describe.run` passes to a stage."""
    got: list[Any] = []
    monkeypatch.setattr(stage, "run_stage", lambda options, name, job, items: got.extend([job, items]) or {})
    describe.run(options)
    return got[0], pl.concat(got[1].complete(shard, rows) for shard, rows in got[1].shards())


def test_each_clip_is_described_from_its_own_texts(
    captioned: Store, tiny_lm: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = describe.DescribeOptions(store=str(captioned.path), llm=tiny_lm, split="train")
    job, items = job_of(options, monkeypatch)
    assert items["key"].to_list() == CLIPS[:4]
    for i, row in enumerate(items.iter_rows(named=True)):
        narration = None if i == 1 else f"now we whisk {i} eggs"
        assert row == {"row": i} | item(CLIPS[i], narration, f"Hand {i} whisks.", f"whisk {i}")


def test_the_input_texts_are_part_of_the_provenance(
    captioned: Store, tiny_lm: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def provenance(**more: Any) -> dict[str, Any]:
        options = describe.DescribeOptions(store=str(captioned.path), llm=tiny_lm, **more)
        return job_of(options, monkeypatch)[0].provenance()

    prompt = tmp_path / "mine.yaml"
    prompt.write_text("system: Be short.\nuser: '{narration}{action_caption}{object_caption}'")
    first = provenance()
    again = provenance(batch=3, timeout=9.0, split="test")
    assert first == again  # none of these options changes an answer
    action = caption(captioned, "captions-action", {}, "another head")
    with pytest.raises(StepDiffError, match="2 versions of captions-action"):
        provenance()
    old = first["reads"]["captions-action"]
    changes: list[dict[str, Any]] = [
        {"actions": action.name},
        {"actions": old, "objects": "none"},
        {"actions": old, "prompt": str(prompt)},
        {"actions": old, "words": 20},
        {"actions": old, "narration": "none"},
        {"actions": old, "sampling": Sampling(temperature=0.5)},
    ]
    made = [first, *(provenance(**change) for change in changes)]
    assert len({json.dumps(each, sort_keys=True) for each in made}) == 7
    with pytest.raises(StepDiffError, match="no column 'speech'"):
        provenance(actions=old, narration="speech")


def test_the_command_describes_clips_with_a_server_and_heads_reads_the_result(
    captioned: Store, server: Server, capsys: pytest.CaptureFixture[str], without_ray: None
) -> None:
    server.answer = lambda body: said("A hand\n" + body["messages"][1]["content"].split("objects: ")[1][:7])
    command = ["--store", str(captioned.path), "--endpoint", server.url, "--llm", "llama"]
    assert describe.main([*command, "--json"]) == 1  # the last clip has no action caption
    record = json.loads(capsys.readouterr().out)
    assert (record["done"], record["failed"], record["absent"]) == (5, 1, 0)
    assert record["failures"][0]["key"] == CLIPS[5]
    texts = ClipTexts(record["folder"])
    assert dict(texts.items()) == {key: f"A hand whisk {i}" for i, key in enumerate(CLIPS[:5])}
    assert chosen(captioned, "describe", None).name == record["version"]


def test_a_server_that_dies_loses_no_answer(
    captioned: Store, server: Server, capsys: pytest.CaptureFixture[str], without_ray: None
) -> None:
    server.answer = lambda body: said("A hand whisks.") if len(server.requests) <= 3 else None
    command = ["--store", str(captioned.path), "--endpoint", server.url, "--llm", "llama", "--split", "train"]
    command += ["--batch", "1", "--retries", "0", "--json"]
    assert describe.main(command) == 1
    record = json.loads(capsys.readouterr().out)
    assert (record["done"], record["failed"], record["absent"]) == (3, 0, 1)
    assert len(record["errors"]) == 1 and "broke off" in record["errors"][0]
    before = ClipTexts(record["folder"]).items()
    server.answer = lambda body: said("A hand stirs.")
    assert describe.main(command) == 0  # without --retry-failed
    record = json.loads(capsys.readouterr().out)
    assert (record["done"], record["already"], record["absent"]) == (1, 3, 0)
    after = dict(ClipTexts(record["folder"]).items())
    assert before <= after.items() and sorted(after.values()) == ["A hand stirs.", *["A hand whisks."] * 3]
    assert sum(body["max_tokens"] > 1 for body in server.requests) == 5  # and one short request


def test_only_clips_that_show_a_step_are_annotated(store: Store) -> None:
    with store.lock():
        store.catalog("clips").append(pl.DataFrame({"key": ["still_0_1"], "split": ["train"]}))
    assert pl.concat(clip_blocks(store, None))["key"].to_list() == CLIPS
    assert pl.concat(clip_blocks(store, "test", ["step"])).to_dicts()[0] == {"key": CLIPS[4], "row": 4, "step": "whisk"}
    with pytest.raises(StepDiffError, match="no clips of split 'val'"):
        list(clip_blocks(store, "val"))


def test_llm_options_are_selected_from_those_of_a_stage() -> None:
    options = describe.DescribeOptions(store="x", llm="llama", endpoint="http://127.0.0.1:1/v1", batch=3)
    alone = LLMOptions(llm="llama", endpoint="http://127.0.0.1:1/v1", batch=3, sampling=options.sampling)
    assert LLMOptions.of(options) == alone
    assert type(LLMOptions.of(options)) is LLMOptions


def test_aligned_speech_replaces_that_of_the_catalog(
    captioned: Store, tiny_lm: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    rows = [(key, "narration", f"about {i}", '{"window": 5}') for i, key in enumerate(CLIPS[:3])]
    frame = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    (tmp_path / "said.parquet").write_bytes(table.encode(frame))
    options = describe.DescribeOptions(
        store=str(captioned.path), llm=tiny_lm, split="train", narration=str(tmp_path / "said.parquet")
    )
    job, items = job_of(options, monkeypatch)
    assert items["narration"].to_list() == ["about 0", "about 1", "about 2", None]
    assert job.provenance()["reads"]["narration"] == ['{"window": 5}']
