"""stepdiff annotate describe --store data/features --llm smollm2-135m-instruct

Combines narration, action caption and grounded objects of every clip into one step description
(S1), by a language model in this process or at a server. heads.evaluate --method socratic reads the
folder that it names.

    --endpoint http://127.0.0.1:8000/v1 --llm meta-llama/Llama-2-70b-chat-hf    a vLLM server
    --objects none        without stepdiff annotate ground
    --prompt mine.yaml    another prompt, a new version

Each version describes a clip once. Later changes of the catalog only affect clips without a
description.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from heads.llm.model import LLM, CutOff, LLMOptions, Sampling
from stepdiff.annotate.qa.prompts import DESCRIBE, NOTHING, Message, Prompt, read_prompt
from stepdiff.annotate.stages.job import HINT, Answer, Item, StageOptions, Unanswered, plain, show
from stepdiff_core.cli import command
from stepdiff_core.cli.options import at_least, incomplete, parse
from stepdiff_core.errors import StepDiffError

STAGE, KIND = "describe", "step description"
_NONE = "none"
_SENTENCES = re.compile(r".*[.!?](?=\s)", re.DOTALL)  # up to the beginning of the last one


@dataclass(frozen=True)
class DescribeJob:
    llm: LLMOptions
    prompt: Prompt
    words: int  # words of a narration that are read
    reads: dict[str, Any]  # stage -> version of the texts that are combined

    def provenance(self) -> dict[str, Any]:
        inputs = {"prompt": self.prompt.sha256, "narration_words": self.words, "reads": self.reads}
        return {**self.llm.provenance(), **inputs}

    def load(self, device: str, threads: int) -> "Describer":
        return Describer(self.llm.load(device), self.llm.sampling, self.prompt, self.words)


class Describer:
    def __init__(self, llm: LLM, sampling: Sampling, prompt: Prompt, words: int) -> None:
        self.llm, self.sampling, self.prompt, self.words = llm, sampling, prompt, words

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        """Yield the description of every item: key, narration, action_caption, object_caption, each
        a text or None."""
        able = []
        for item in items:
            if item["action_caption"] is None:
                yield (
                    item["key"],
                    Unanswered(
                        "no action caption: run stepdiff annotate captions, then --retry-failed"
                    ),
                )
            elif item["object_caption"] is None:
                yield (
                    item["key"],
                    Unanswered(
                        "objects not grounded: run stepdiff annotate ground, then --retry-failed"
                    ),
                )
            else:
                able.append(item)
        for place, text in self.llm.chat([self.messages(item) for item in able], self.sampling):
            if isinstance(text, str):
                whole = _SENTENCES.match(text) if isinstance(text, CutOff) else None
                words = " ".join(plain(whole[0] if whole else text).split())
                text = words or Unanswered("the language model answered nothing")
            yield able[place]["key"], text if isinstance(text, Unanswered) else {KIND: text}

    def messages(self, item: Item) -> list[Message]:
        return self.prompt.messages(
            narration=one_line(item["narration"], " ", self.words),
            action_caption=one_line(item["action_caption"], " "),
            object_caption=one_line(item["object_caption"], ", "),
        )


def one_line(text: str | None, between: str, words: int | None = None) -> str:
    """Return the lines of a text, joined, cut after `words` words, without the full stop that the
    prompt adds."""
    lines = [line.strip(" \t-*•") for line in plain(text or "").splitlines()]
    joined = between.join(filter(None, lines))
    if words is not None:
        joined = " ".join(joined.split(maxsplit=words)[:words])
    return joined.rstrip(" .") or NOTHING


@dataclass(frozen=True, kw_only=True)
class DescribeOptions(LLMOptions, StageOptions):
    split: str | None = None
    """only clips of this split; null: all"""
    narration: str = "narration"
    """column of the catalog with the speech of the clip, or the .parquet file of stepdiff annotate
    align; none: no narration"""
    words: int = 200
    """words of a narration that are read"""
    actions: str | None = None
    """version of the action captions, by its first letters; null: the only one"""
    objects: str | None = None
    """version of the grounded objects, likewise; none: no objects"""
    sampling: Sampling = Sampling(max_tokens=64)
    """how answers are sampled"""
    prompt: str | None = None
    """YAML file with `system` and `user` that replaces the supplement's prompt, with the same
    fields"""


def run(options: DescribeOptions) -> dict[str, Any]:
    at_least(options, words=1)
    import polars as pl

    from heads.data.clip_texts import ClipTexts
    from stepdiff.annotate.grounding import GROUNDED
    from stepdiff.annotate.stages.stage import Items, chosen, clip_blocks, run_stage
    from store import Store

    store = Store.open(options.store)
    actions = chosen(store, "captions-action", options.actions)
    objects = None if options.objects == _NONE else chosen(store, "ground", options.objects)
    aligned = ClipTexts(options.narration) if options.narration.endswith(".parquet") else None
    job = DescribeJob(
        LLMOptions.of(options),
        read_prompt(options.prompt, DESCRIBE),
        options.words,
        {
            "narration": aligned.provenance if aligned else options.narration,
            actions.stage: actions.name,
            "ground": objects.name if objects else _NONE,
        },
    )
    columns = [] if aligned or options.narration == _NONE else [options.narration]
    if (
        columns
        and (kind := store.catalog("clips").schema().get(options.narration, pl.String)) != pl.String
    ):
        raise StepDiffError(f"--narration {options.narration}: a column of type {kind}, not text")

    def complete(shard: int, rows: pl.DataFrame) -> pl.DataFrame:
        """Add the texts about the clips of a shard, which has the same number in every stage."""
        spoken = rows.select("key", *columns).iter_rows() if columns else ()
        texts = {
            "narration": aligned.texts if aligned else dict(spoken),
            "action_caption": actions.shard_texts(shard, "action"),
            "object_caption": objects.shard_texts(shard, GROUNDED)
            if objects
            else dict.fromkeys(rows["key"], ""),
        }
        columns_of = {name: [of.get(key) for key in rows["key"]] for name, of in texts.items()}
        return rows.select(
            "key", "row", *(pl.Series(name, of, pl.String) for name, of in columns_of.items())
        )

    return run_stage(
        options, STAGE, job, Items(lambda: clip_blocks(store, options.split, columns), complete)
    )


def main(argv: list[str] | None = None) -> int:
    return parse(
        DescribeOptions, argv, "stepdiff.annotate.describe", __doc__, run, show, status=incomplete
    )


if __name__ == "__main__":
    command.run(main, HINT)
