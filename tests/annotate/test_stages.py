"""Stages: no answer is computed twice or lost, whatever dies; descriptions of clips from their
texts."""

import json
import multiprocessing
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from stage_jobs import Shout

from heads.data.clip_texts import ClipTexts
from heads.llm.model import CutOff, LLMOptions, Sampling
from stepdiff.annotate import describe
from stepdiff.annotate.describe import DescribeJob, Describer, one_line
from stepdiff.annotate.grounding import GROUNDED, SCORES
from stepdiff.annotate.qa.prompts import DESCRIBE, Message, read_prompt
from stepdiff.annotate.stages.job import StageOptions, Unanswered
from stepdiff.annotate.stages.stage import (
    SCHEMA,
    SHARD,
    Answered,
    Items,
    StageWorker,
    StageWorkerOptions,
    Version,
    chosen,
    pending,
    run_stage,
    versions,
)
from stepdiff_core.errors import StepDiffError
from stepdiff_core.io import sealed as table
from stepdiff_core.io.locks import locked
from stepdiff_core.io.sealed import BLANK
from store import Store
from store.format.layout import write_json
from store.io.records import REASONS
from tests.llm_server import Server, said
from tests.refusals import refuses

from .conftest import CLIPS


def items(words: list[str | None]) -> Items:
    """Return items of which four are in a shard."""
    rows = range(0, SHARD // 4 * len(words), SHARD // 4)
    frame = pl.DataFrame(
        {"key": [f"v_{place}_1" for place in range(len(words))], "row": rows, "narration": words}
    )
    return Items(lambda: [frame])


@pytest.fixture
def job(tmp_path: Path) -> Shout:
    return Shout(str(tmp_path / "log"))


def lines(job: Shout) -> list[str]:
    return Path(job.log).read_text().split() if Path(job.log).exists() else []


def work(store: Store, job: Shout, asked: Items, retry_failed: bool = False) -> list[Answered]:
    """Run a stage without Ray: one worker in this process."""
    version = Version(store, "shout", job.provenance())
    version.create()
    shouting = StageWorker(
        StageWorkerOptions(str(store.path), "shout", version.name, job, "cpu", 1)
    )
    return [shouting.run(task) for task in pending(version, asked, retry_failed)]


def test_heads_reads_the_answers_as_texts(store: Store, job: Shout) -> None:
    asked = items([f"word {i}" for i in range(10)])
    outcomes = work(store, job, asked)
    assert [o.done for o in outcomes] == [4, 4, 2]
    version = chosen(store, "shout", None)
    texts = ClipTexts(str(version.folder), "shout")
    assert (
        dict(texts.items())
        == {f"v_{i}_1": f"WORD {i}" for i in range(10)}
        == version.texts("shout")
    )
    assert [json.loads(line) for line in texts.provenance] == [job.provenance()]
    assert len(list(version.folder.glob("*.parquet"))) == 3


def test_an_answered_item_is_never_answered_again(store: Store, job: Shout) -> None:
    work(store, job, items(["a", "b", "c"]))
    assert work(store, job, items(["a", "b", "c"])) == []
    before = lines(job)
    work(store, job, items(["a", "b", "c", "d", "e", None]))  # shard 0 is complete, shard 1 started
    assert lines(job) == [*before, "v_3_1", "v_4_1", "v_5_1"]
    assert len(chosen(store, "shout", None).texts("shout")) == 5
    assert work(store, job, items(["a", "b", "c", "d", "e", None])) == []  # neither is a failed one
    Path(job.log).with_suffix(".repaired").touch()
    work(store, job, items(["a", "b", "c", "d", "e", None]), retry_failed=True)
    assert lines(job)[6:] == ["v_5_1"]


def test_a_failure_no_longer_counts_once_its_item_is_answered(store: Store, job: Shout) -> None:
    work(store, job, items(["a", None]))
    assert chosen(store, "shout", None).shard_failures(0)["key"].to_list() == ["v_1_1"]
    Path(job.log).with_suffix(".repaired").touch()
    work(store, job, items(["a", None]), retry_failed=True)
    version = chosen(store, "shout", None)
    assert version.texts("shout")["v_1_1"] == "NONE" and version.shard_failures(0).is_empty()


def test_failures_are_recorded_with_their_reason(store: Store, job: Shout) -> None:
    (outcome,) = work(store, job, items(["a", None, "busy", "b"]))
    version = chosen(store, "shout", None)
    assert version.shard_failures(0).to_dicts() == [
        {"key": "v_1_1", "reason": "no narration: say something"}
    ]
    assert outcome.done == 2 and outcome.error == "the server is busy"  # no failure is recorded
    Path(job.log).with_suffix(".repaired").touch()
    (outcome,) = work(store, job, items(["a", None, "busy", "b"]))  # retried without --retry-failed
    assert lines(job)[4:] == ["v_2_1"] and outcome.error is None


def test_answers_that_came_before_the_model_failed_are_kept(store: Store, job: Shout) -> None:
    asked = items(["a", "b", "down", "c", "d"])
    assert [o.error for o in work(store, job, asked)] == ["the model went away", None]
    assert set(chosen(store, "shout", None).texts("shout")) == {"v_0_1", "v_1_1", "v_4_1"}
    Path(job.log).with_suffix(".up").touch()
    assert [o.error for o in work(store, job, asked)] == [None]
    assert lines(job) == ["v_0_1", "v_1_1", "v_4_1", "v_2_1", "v_3_1"]  # each once


def test_one_of_several_versions_is_only_used_if_it_is_named(store: Store, job: Shout) -> None:
    for each in (job, Shout(job.log, "SHOUT")):
        work(store, each, items(["a", "b"]))
    for version in versions(store, "shout"):
        assert set(ClipTexts(str(version.folder), "shout").provenance) == {version.line}
    with pytest.raises(StepDiffError, match="2 versions of shout; name one of"):
        chosen(store, "shout", None)
    name = versions(store, "shout")[1].name
    assert chosen(store, "shout", name[:8]).name == name
    with pytest.raises(StepDiffError, match="0 versions of shout begin with 'xyz'"):
        chosen(store, "shout", "xyz")
    with pytest.raises(
        StepDiffError, match="no describe in it yet; run stepdiff annotate describe"
    ):
        chosen(store, "describe", None)


@pytest.mark.full
@pytest.mark.parametrize(
    ("provenance", "message"),
    [
        (None, "holds no provenance (KeyError"),
        ([["model", 1, 2]], "holds no provenance (TypeError"),
        ({"model": "\ud800"}, "holds no provenance (UnicodeEncodeError"),
        ({"model": "another"}, "is that of version"),
    ],
)
def test_a_wrong_provenance_is_refused(
    store: Store, job: Shout, provenance: Any, message: str
) -> None:
    work(store, job, items(["a"]))
    path = chosen(store, "shout", None).folder / "provenance.json"
    write_json(path, {"seal": BLANK} | ({} if provenance is None else {"provenance": provenance}))
    with pytest.raises(StepDiffError) as refused:
        chosen(store, "shout", None)
    assert str(refused.value).startswith(f"{path}: ") and message in str(refused.value)
    assert "\n" not in str(refused.value)


def test_weights_that_changed_during_the_run_are_refused(store: Store, job: Shout) -> None:
    version = Version(store, "shout", {"model": "another"})
    shouting = StageWorker(
        StageWorkerOptions(str(store.path), "shout", version.name, job, "cpu", 1)
    )
    with pytest.raises(StepDiffError, match="not those that the run began with"):
        shouting.run(next(pending(version, items(["a"]), False)))
    assert not list(version.folder.glob("*.parquet"))


def test_a_damaged_shard_is_refused(store: Store, job: Shout) -> None:
    work(store, job, items(["a"]))
    version = chosen(store, "shout", None)
    path = version.folder / "000000.parquet"
    assert isinstance(path, Path)
    path.write_bytes(path.read_bytes().replace(b"shout", b"snout"))
    with pytest.raises(StepDiffError, match="is not as it was written"):
        work(store, job, items(["a", "b"]))


def _write(folder: str, log: str) -> None:
    work(Store.open(folder), Shout(log), items(["a", "b", "die", "c"]))


def test_a_killed_run_continues_where_it_stopped(store: Store, job: Shout) -> None:
    Path(job.log).with_suffix(".slow").touch()  # longer than a worker keeps answers in memory
    killed = multiprocessing.get_context("spawn").Process(
        target=_write, args=(str(store.path), job.log)
    )
    killed.start()
    killed.join()
    assert killed.exitcode == -9
    assert set(chosen(store, "shout", None).texts("shout")) == {"v_0_1", "v_1_1"}
    work(store, job, items(["a", "b", "die", "c"]))
    assert lines(job) == ["v_0_1", "v_1_1", "v_2_1", "v_3_1"]


def test_a_worker_answers_the_rest_of_a_dead_ones_shard(store: Store, job: Shout) -> None:
    version = Version(store, "shout", job.provenance())
    version.create()
    (task,) = pending(version, items(["a", "b", "c"]), False)
    work(store, job, items(["a", "b"]))  # saved by the dead worker for the same task
    outcome = StageWorker(
        StageWorkerOptions(str(store.path), "shout", version.name, job, "cpu", 1)
    ).run(task)
    assert outcome.done == 1 and lines(job) == ["v_0_1", "v_1_1", "v_2_1"]
    keys = version.shard(0).filter(kind="shout")["key"].to_list()
    assert keys == ["v_0_1", "v_1_1", "v_2_1"]


def test_an_unexpected_error_loses_no_answer(store: Store, job: Shout) -> None:
    with pytest.raises(MemoryError):
        work(store, job, items(["a", "b", "unforeseen", "c"]))
    assert set(chosen(store, "shout", None).texts("shout")) == {"v_0_1", "v_1_1"}


def options(store: Store, **more: Any) -> StageOptions:
    return StageOptions(store=str(store.path), **more)


def test_one_worker_is_this_process(
    store: Store, job: Shout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    record = run_stage(options(store, workers=1), "shout", job, items(["a", "b", None, "c"]))
    assert (record["done"], record["failed"], record["absent"], record["errors"]) == (3, 1, 0, [])
    record = run_stage(
        options(store, workers=1), "shout", job, items(["a", "b", None, "c", "d", "unforeseen"])
    )
    assert (record["already"], record["absent"]) == (4, 1)
    (error,) = record["errors"]
    assert (
        "MemoryError" in error
        and error.endswith("try fewer --workers")
        and error in capsys.readouterr().err
    )


@pytest.mark.full
def test_a_run_on_ray_replaces_a_worker_that_dies(store: Store, job: Shout, ray: None) -> None:
    asked = items(["a", "b", "c", "d", "die", "e", None, "f"])
    record = run_stage(options(store, workers=1), "shout", job, asked)
    assert (record["done"], record["failed"], record["absent"], record["errors"]) == (7, 1, 0, [])
    assert record["failures"] == [{"key": "v_6_1", "reason": "no narration: say something"}]
    texts = chosen(store, "shout", None).texts("shout")
    assert texts == {
        f"v_{i}_1": w.upper() for i, w in enumerate("a b c d die e - f".split()) if i != 6
    }
    again = run_stage(options(store), "shout", job, asked)
    assert again["already"] == 7 and again["done"] == 0


def test_two_runs_cannot_write_one_version_at_the_same_time(store: Store, job: Shout) -> None:
    version = Version(store, "shout", job.provenance())
    assert isinstance(version.folder, Path)
    version.folder.mkdir(parents=True)
    with locked(version.folder / "lock.json", wait=False):
        with pytest.raises(StepDiffError, match="is being written by process"):
            run_stage(options(store), "shout", job, items(["a"]))


def test_a_snapshot_is_not_annotated(store: Store, job: Shout) -> None:
    store.tag("v1")
    given = StageOptions(store=f"{store.path}@v1")
    with pytest.raises(
        StepDiffError, match="snapshot v1 of .* is not annotated: give the store without @v1"
    ):
        run_stage(given, "shout", job, items(["a"]))
    assert not (store.path / "annotations").exists()


SYSTEM = (
    "You are an AI assistant that synthesizes the output of narration, action and object "
    "captioning models into a single description of the content."
)
END = (
    "Summarize the captions into a single, descriptive sentence about what the person is doing, "
    "and using what objects."
)


def item(
    key: str, narration: str | None, action: str | None, objects: str | None
) -> dict[str, Any]:
    return {"key": key, "narration": narration, "action_caption": action, "object_caption": objects}


class Recorder:
    """A language model that repeats its prompt."""

    def chat(
        self, conversations: Sequence[Sequence[Message]], sampling: Sampling
    ) -> Iterator[tuple[int, str]]:
        for place in reversed(range(len(conversations))):
            yield place, json.dumps(conversations[place])


def test_missing_captions_are_waited_for() -> None:
    asked = [item("a", "we whisk", None, "eggs"), item("b", "we whisk", "a hand whisks", None)]
    found = dict(Describer(Recorder(), Sampling(), DESCRIBE, words=200).annotate(asked))
    reasons = {
        key: answer.reason for key, answer in found.items() if isinstance(answer, Unanswered)
    }
    assert (
        "run stepdiff annotate captions" in reasons["a"]
        and "run stepdiff annotate ground" in reasons["b"]
    )


def test_the_model_reads_the_prompt_with_the_texts_of_the_clip() -> None:
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
        user = (
            f"Video narration: {narration}.\nPossible activity: {action}.\nPossible objects: "
            f"{objects}.\n{END}"
        )
        assert texts[key][1] == {"role": "user", "content": user}


class Stopped:
    """A language model whose answer is cut by the token limit."""

    def __init__(self, text: str) -> None:
        self.text = text

    def chat(
        self, conversations: Sequence[Sequence[Message]], sampling: Sampling
    ) -> Iterator[tuple[int, str]]:
        yield from ((place, CutOff(self.text)) for place in range(len(conversations)))


@pytest.mark.parametrize(
    ("written", "kept"),
    [
        ("A hand whisks 1.5 cups. It uses a", "A hand whisks 1.5 cups."),
        ("A hand whisks in a", "A hand whisks in a"),
    ],
)
def test_a_cut_sentence_is_left_out_after_a_complete_one(written: str, kept: str) -> None:
    describer = Describer(Stopped(written), Sampling(), DESCRIBE, words=200)
    assert dict(describer.annotate([item("a", "we whisk", "A hand whisks.", "")])) == {
        "a": {"step description": kept}
    }


def test_a_prompt_fits_with_hours_of_narration_and_without_any() -> None:
    hours = "and now we whisk\n" * 200_000
    assert one_line(hours, " ", 6) == "and now we whisk and now"
    assert one_line("half \ud83d\0 of it", " ", 200) == "half ? of it"
    for nothing in (None, "", " \n\t", "."):
        assert one_line(nothing, " ", 6) == "none"


def caption(
    store: Store, stage: str, texts: dict[str, dict[str, str]], made: str = "a head"
) -> Version:
    """Write a version of a stage as an earlier run would."""
    version = Version(store, stage, {"model": made})
    version.create()
    rows = [
        (key, kind, text, version.line)
        for key, message in texts.items()
        for kind, text in message.items()
    ]
    version.write(0, pl.DataFrame(rows, schema=SCHEMA, orient="row"), pl.DataFrame(schema=REASONS))
    return version


@pytest.fixture
def captioned(store: Store) -> Store:
    caption(
        store,
        "captions-action",
        {key: {"action": f"Hand {i} whisks."} for i, key in enumerate(CLIPS[:5])},
    )
    caption(
        store,
        "ground",
        {key: {GROUNDED: f"whisk {i}", SCORES: "[]"} for i, key in enumerate(CLIPS)},
    )
    return store


def test_the_input_texts_are_part_of_the_provenance(
    captioned: Store, tiny_lm: str, tmp_path: Path
) -> None:
    prompt = tmp_path / "mine.yaml"
    prompt.write_text("system: Be short.\nuser: '{narration}{action_caption}{object_caption}'")
    reads = {"narration": "narration", "captions-action": "one", "ground": "two"}
    jobs = [
        DescribeJob(
            LLMOptions(llm=tiny_lm, sampling=sampling),
            read_prompt(text, DESCRIBE),
            words,
            {**reads, **changed},
        )
        for sampling, text, words, changed in (
            (Sampling(), None, 200, {}),
            (Sampling(temperature=0.5), None, 200, {}),
            (Sampling(), str(prompt), 200, {}),
            (Sampling(), None, 20, {}),
            *((Sampling(), None, 200, {name: "other"}) for name in reads),
        )
    ]
    assert len({json.dumps(job.provenance(), sort_keys=True) for job in jobs}) == 7
    same = DescribeJob(
        LLMOptions(llm=tiny_lm, batch=3, timeout=9.0), read_prompt(None, DESCRIBE), 200, reads
    )
    assert same.provenance() == jobs[0].provenance()  # none of these options changes an answer
    caption(captioned, "captions-action", {}, "another head")
    with pytest.raises(StepDiffError, match="2 versions of captions-action"):
        describe.run(describe.DescribeOptions(store=str(captioned.path), llm=tiny_lm))


def test_the_command_describes(
    captioned: Store, server: Server, capsys: pytest.CaptureFixture[str], ray: None
) -> None:
    server.answer = lambda body: said(
        "A hand\n" + body["messages"][1]["content"].split("objects: ")[1][:7]
    )
    command = ["--store", str(captioned.path), "--endpoint", server.url, "--llm", "llama"]
    assert describe.main([*command, "--json"]) == 1  # the last clip has no action caption
    record = json.loads(capsys.readouterr().out)
    assert (record["done"], record["failed"], record["absent"]) == (5, 1, 0)
    assert record["failures"][0]["key"] == CLIPS[5]
    texts = ClipTexts(record["folder"])
    assert dict(texts.items()) == {key: f"A hand whisk {i}" for i, key in enumerate(CLIPS[:5])}
    assert chosen(captioned, "describe", None).name == record["version"]
    prompts = [body["messages"][1]["content"] for body in server.requests if body["max_tokens"] > 1]
    for i in range(5):
        narration = "none" if i == 1 else f"now we whisk {i} eggs"
        start = (
            f"Video narration: {narration}.\nPossible activity: Hand {i} whisks.\nPossible "
            f"objects: whisk {i}.\n"
        )
        assert sum(prompt.startswith(start) for prompt in prompts) == 1
    refuses(describe.main, [*command, "--narration", "speech"], capsys, "no column 'speech'")


@pytest.mark.full
def test_aligned_speech_replaces_that_of_the_catalog(
    captioned: Store, server: Server, capsys: pytest.CaptureFixture[str], ray: None, tmp_path: Path
) -> None:
    rows = [(key, "narration", f"about {i}", '{"window": 5}') for i, key in enumerate(CLIPS[:3])]
    (tmp_path / "said.parquet").write_bytes(
        table.encode(pl.DataFrame(rows, schema=SCHEMA, orient="row"))
    )
    server.answer = lambda body: said(body["messages"][1]["content"].split(".")[0])
    command = [
        "--store",
        str(captioned.path),
        "--endpoint",
        server.url,
        "--llm",
        "llama",
        "--split",
        "train",
    ]
    assert describe.main([*command, "--narration", str(tmp_path / "said.parquet"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    narrations = [
        text.removeprefix("Video narration: ")
        for _, text in sorted(ClipTexts(record["folder"]).items())
    ]
    assert narrations == ["about 0", "about 1", "about 2", "none"]
