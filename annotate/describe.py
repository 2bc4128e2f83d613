"""python -m annotate.describe --store data/features --llm smollm2-135m-instruct

Puts narration, action caption and grounded objects of every clip together into one step description (S1), by a
language model in this process or at a server. heads.evaluate --method socratic reads the folder that it names.

    --endpoint http://127.0.0.1:8000/v1 --llm meta-llama/Llama-2-70b-chat-hf --batch 64    a model that vLLM serves
    --objects none                                                                         without annotate.ground
    --prompt mine.yaml                                                                     another prompt, a new version

A clip is described once a version. What the catalog is told anew later (featurize) is read by clips still to come.

One step description of a clip, out of its narration, its action caption and its grounded objects (S1).

Guarantees
- the language model reads the supplement's prompt with what was said of this clip, and nothing of another
- hours of narration, or none, fit the prompt
- a clip without an action caption fails, and says what to run
- a sentence that the limit of tokens ended is left out, where a whole one stands before it
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import polars as pl

from annotate.grounding.objects import GROUNDED
from annotate.llm.options import LLM, CutOff, LLMOptions, Sampling
from annotate.qa.prompts import DESCRIBE, NOTHING, Message, Prompt, read_prompt
from annotate.stages.job import Answer, Failure, Item, clip_items, plain
from annotate.stages.stage import StageOptions, run_stage, show
from annotate.stages.versions import chosen
from common.cli import command
from common.cli.options import incomplete, parse
from common.errors import StepDiffError
from heads.data.clip_texts import ClipTexts
from store import Store

KIND = "step description"
_SENTENCES = re.compile(r".*[.!?](?=\s)", re.DOTALL)  # up to where the last begins


@dataclass(frozen=True)
class DescribeJob:
    llm: LLMOptions
    prompt: Prompt
    words: int
    """of a narration that are read"""
    reads: dict[str, Any]
    """stage -> version of what is put together"""

    def provenance(self) -> dict[str, Any]:
        """Model, weights, sampling, prompt and what is read."""
        return {
            **self.llm.provenance(),
            "prompt": self.prompt.sha256,
            "narration_words": self.words,
            "reads": self.reads,
        }

    def load(self, device: str, threads: int) -> "Describer":
        return Describer(self.llm.load(device), self.llm.sampling, self.prompt, self.words)


class Describer:
    def __init__(self, llm: LLM, sampling: Sampling, prompt: Prompt, words: int) -> None:
        self.llm, self.sampling, self.prompt, self.words = llm, sampling, prompt, words

    @property
    def busy(self) -> float:
        """Seconds that the language model has worked."""
        return self.llm.busy

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        """items: key, narration, action_caption, object_caption, each of the last three a text or None.

        A clip may go without narration; captions that are still to come are waited for.
        """
        able = []
        for item in items:
            if item["action_caption"] is None:
                yield item["key"], Failure("no action caption: run python -m annotate.captions, then --retry-failed")
            elif item["object_caption"] is None:
                yield item["key"], Failure("objects not grounded: run python -m annotate.ground, then --retry-failed")
            else:
                able.append(item)
        for place, text in self.llm.chat([self.messages(item) for item in able], self.sampling):
            if isinstance(text, str):
                whole = _SENTENCES.match(text) if isinstance(text, CutOff) else None
                words = " ".join(plain(whole[0] if whole else text).split())
                text = words or Failure("the language model said nothing")
            yield able[place]["key"], text if isinstance(text, Failure) else {KIND: text}

    def messages(self, item: Item) -> list[Message]:
        """What the language model is sent about a clip."""
        return self.prompt.messages(
            narration=one_line(item["narration"], " ", self.words),
            action_caption=one_line(item["action_caption"], " "),
            object_caption=one_line(item["object_caption"], ", "),
        )


def one_line(text: str | None, between: str, words: int | None = None) -> str:
    """The lines of a text, joined, cut behind so many words and without the end stop that the prompt sets itself."""
    lines = [line.strip(" \t-*•") for line in plain(text or "").splitlines()]
    joined = between.join(filter(None, lines))
    if words is not None:
        joined = " ".join(joined.split(maxsplit=words)[:words])
    return joined.rstrip(" .") or NOTHING


STAGE = "describe"
_NONE = "none"


@dataclass(frozen=True, kw_only=True)
class DescribeOptions(LLMOptions, StageOptions):
    split: str | None = None
    """only clips of this split; null: all"""
    narration: str = "narration"
    """column of the catalog with what was said in the clip, or the .parquet file of python -m annotate.align; none:
    nothing was"""
    words: int = 200
    """of a narration that are read"""
    actions: str | None = None
    """version of the action captions, by its first letters; null where there is one"""
    objects: str | None = None
    """version of the grounded objects, likewise; none: do without"""
    sampling: Sampling = Sampling(max_tokens=64)
    """how answers are drawn"""
    prompt: str | None = None
    """YAML file with `system` and `user` in place of the supplement's prompt, with the same fields"""


def run(options: DescribeOptions) -> dict[str, Any]:
    if options.words < 1:
        raise StepDiffError(f"--words {options.words} is too few: give 1 or more")
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
    items = clip_items(store, options.split, columns)
    if columns and items[options.narration].dtype != pl.String:
        raise StepDiffError(f"--narration {options.narration}: a column of {items[options.narration].dtype}, not text")
    spoken = items.select("key", *columns).iter_rows() if columns else ()
    said = {
        "narration": dict(aligned.items() if aligned else spoken),
        "action_caption": actions.texts("action"),
        "object_caption": objects.texts(GROUNDED) if objects else dict.fromkeys(items["key"], ""),
    }
    items = items.select(
        "key",
        "row",
        *(pl.Series(field, [texts.get(key) for key in items["key"]], pl.String) for field, texts in said.items()),
    )
    return run_stage(options, STAGE, job, items)


def main(argv: list[str] | None = None) -> int:
    return parse(DescribeOptions, argv, "annotate.describe", __doc__, run, show, status=incomplete)


if __name__ == "__main__":
    command.run(main, "what is answered stays, run the same command for the rest")
