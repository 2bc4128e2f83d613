"""python -m annotate.describe --store data/features --llm smollm2-135m-instruct

Puts narration, action caption and grounded objects of every clip together into one step description (S1), by a
language model in this process or at a server. heads.evaluate --method socratic reads the folder that it names.

    --endpoint http://127.0.0.1:8000/v1 --llm meta-llama/Llama-2-70b-chat-hf --batch 64    a model that vLLM serves
    --objects none                                                                         without annotate.ground
    --prompt mine.yaml                                                                     another prompt, a new version

A clip is described once a version. What the catalog is told anew later (featurize) is read by clips still to come.
"""

from dataclasses import dataclass
from typing import Any

import polars as pl

from annotate.cli import parse
from annotate.clips import clip_items
from annotate.describer import DescribeJob
from annotate.grounding.objects import GROUNDED
from annotate.llm.options import LLMOptions, Sampling
from annotate.qa.prompts import DESCRIBE, read_prompt
from annotate.stages.stage import StageOptions, run_stage, show
from annotate.stages.versions import chosen
from common.cli import command
from common.errors import StepDiffError
from heads.data.clip_texts import ClipTexts
from store import Store

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
    return parse(DescribeOptions, argv, "annotate.describe", __doc__, run, show)


if __name__ == "__main__":
    command.run(main, "what is answered stays, run the same command for the rest")
