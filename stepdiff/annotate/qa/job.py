"""The stage that calls a language model with each prompt for each pair of clips, and the rows of a PairQA file.

Guarantees
- a pair of one step gets three prompts, and a pair of different steps none
- each type has the supplement's prompt, and type 3 a limit of one word
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import polars as pl
from pydantic import Strict, TypeAdapter

from heads.data.clip_texts import ClipTexts
from heads.llm.model import LLM, CutOff, LLMOptions
from stepdiff.annotate.people.files import checked
from stepdiff.annotate.qa.pair_choice import SCHEMA
from stepdiff.annotate.qa.prompts import PAIRQA
from stepdiff.annotate.stages.job import Annotator, Answer, Failure, Item
from stepdiff.common.errors import StepDiffError
from stepdiff.common.io.jsonl import read_objects

STAGE = "pairqa"
KINDS = tuple(PAIRQA)
CUT = ", ended by"  # suffix of an answer's kind: the kind that records the limit that ended the answer
_ONE_WORD = 8  # tokens that type 3's single word may take


@dataclass(frozen=True)
class PairQAJob:
    llm: LLMOptions
    pairs: str  # sha256 of the pairs' file
    descriptions: tuple[str, ...]  # provenance of the descriptions
    texts: str  # sha256 of the descriptions in the prompts

    def provenance(self) -> dict[str, Any]:
        prompts = {f"type {kind}": prompt.sha256 for kind, prompt in PAIRQA.items()}
        inputs = {"pairs": self.pairs, "descriptions": list(self.descriptions), "texts": self.texts}
        return {**self.llm.provenance(), "prompts": prompts, **inputs}

    def load(self, device: str, threads: int) -> Annotator:
        return _Writer(self.llm.load(device), self.llm)


class _Writer:
    def __init__(self, llm: LLM, options: LLMOptions) -> None:
        self._llm, self._sampling = llm, options.sampling

    @property
    def busy(self) -> float:
        return self._llm.busy

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        by_kind = defaultdict(list)
        for item in items:
            by_kind[item["type"]].append(item)
        for kind, own in by_kind.items():
            sampling, prompt = self._sampling, PAIRQA[kind]
            if kind == 3:
                sampling = replace(sampling, max_tokens=min(sampling.max_tokens, _ONE_WORD))
            conversations = [prompt.messages(**{name: item[name] for name in prompt.fields}) for item in own]
            for place, text in self._llm.chat(conversations, sampling):
                answer: Answer = text if isinstance(text, Failure) else {f"type {kind}": text}
                if isinstance(text, CutOff):
                    answer = {f"type {kind}": text, f"type {kind}{CUT}": "max_tokens"}
                yield own[place]["key"], answer


def item_key(kind: int, reference: str, candidate: str) -> str:
    """Return the unique name of an item."""
    return f"{kind} {reference} {candidate}"


def read_pairs_file(path: str) -> pl.DataFrame:
    """Read a file of stepdiff annotate pairs. StepDiffError: not such a file."""
    try:
        frame = pl.read_parquet(path)
    except (OSError, pl.exceptions.PolarsError, pl.exceptions.PanicException) as error:
        why = str(error).strip().splitlines()[0]
        raise StepDiffError(f"{path}: no pairs can be read ({why}); run stepdiff annotate pairs") from None
    if dict(frame.schema) != SCHEMA:
        raise StepDiffError(
            f"{path}: not a file of stepdiff annotate pairs; its columns are {', '.join(frame.columns)}"
        )
    return frame


def described_pairs(pairs: pl.DataFrame, texts: ClipTexts) -> pl.DataFrame:
    """Return the pairs of different steps, and those of one step whose clips both have a description."""
    keys = pl.Series([key for key, _ in texts.items()], dtype=pl.String).implode()
    described = pl.col("reference").is_in(keys) & pl.col("candidate").is_in(keys)
    return pairs.filter(described | ~pl.col("same_step"))


def items(pairs: pl.DataFrame, texts: Mapping[str, str]) -> pl.DataFrame:
    """Return one item for each type of each pair of one step; texts: clip -> its step description."""
    rows = [
        {
            "key": item_key(kind, pair["reference"], pair["candidate"]),
            "row": pair["pair"] * len(KINDS) + kind - 1,
            "type": kind,
            "step_description_1": texts[pair["reference"]],
            "step_description_2": texts[pair["candidate"]],
        }
        for pair in pairs.filter("same_step").iter_rows(named=True)
        for kind in KINDS
    ]
    schema = {"key": pl.String, "row": pl.Int64, "type": pl.Int64} | dict.fromkeys(PAIRQA[1].fields, pl.String)
    return pl.DataFrame(rows, schema=schema)


class Question(NamedTuple):
    """One line of a PairQA file."""

    reference: str
    candidate: str
    question: str
    answer: str
    type: Annotated[int, Strict()] | None = None  # of the supplement's prompts; None if the file does not say


_QUESTION = TypeAdapter(Question).validate_python


def read_questions(path: str | Path) -> list[Question]:
    """Read all lines of a PairQA file. StepDiffError: a line has another form, or the file is empty."""
    found = [_question(row, place) for place, row in read_objects(path)]
    if not found:
        raise StepDiffError(f"{path}: no questions in it; run stepdiff annotate pairqa")
    return found


def _question(row: dict[str, Any], place: str) -> Question:
    keys = {name: row[name] for name in Question._fields if name in row}
    return checked(_QUESTION, keys, f"{place}: not a PairQA row: ")
