"""The stage that asks a language model about pairs: three prompts for each pair of one step.

Rows of a PairQA file, as annotate.pairqa writes them and as the sample world has them.

Guarantees
- a pair of one step is asked with each of the supplement's three prompts, and one of two steps not at all
"""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import polars as pl

from annotate.llm.options import LLM, CutOff, LLMOptions
from annotate.qa.prompts import PAIRQA
from annotate.stages.job import Annotator, Answer, Failure, Item
from common.errors import StepDiffError
from common.io.jsonl import read_objects

STAGE = "pairqa"
KINDS = tuple(PAIRQA)
CUT = ", ended by"
"""behind the kind of an answer: the kind that tells of the limit that ended it, where one did"""
_ONE_WORD = 8
"""tokens that type 3's single word may take"""


@dataclass(frozen=True)
class PairQAJob:
    llm: LLMOptions
    pairs: str
    """sha256 of the pairs' file"""
    descriptions: tuple[str, ...]
    """how the descriptions came about"""
    texts: str
    """sha256 of those that are read"""

    def provenance(self) -> dict[str, Any]:
        prompts = {f"type {kind}": prompt.sha256 for kind, prompt in PAIRQA.items()}
        read = {"pairs": self.pairs, "descriptions": list(self.descriptions), "texts": self.texts}
        return {**self.llm.provenance(), "prompts": prompts, **read}

    def load(self, device: str, threads: int) -> Annotator:
        return _Asker(self.llm.load(device), self.llm)


class _Asker:
    def __init__(self, llm: LLM, options: LLMOptions) -> None:
        self._llm, self._sampling = llm, options.sampling

    @property
    def busy(self) -> float:
        return self._llm.busy

    def annotate(self, items: Sequence[Item]) -> Iterator[tuple[str, Answer]]:
        by_kind = defaultdict(list)
        for item in items:
            by_kind[item["type"]].append(item)
        for kind, asked in by_kind.items():
            sampling = self._sampling
            if kind == 3:
                sampling = replace(sampling, max_tokens=min(sampling.max_tokens, _ONE_WORD))
            conversations = [
                PAIRQA[kind].messages(**{name: item[name] for name in PAIRQA[kind].fields}) for item in asked
            ]
            for place, answer in self._llm.chat(conversations, sampling):
                told: Answer = answer if isinstance(answer, Failure) else {f"type {kind}": answer}
                if isinstance(answer, CutOff) and not isinstance(told, Failure):
                    told = {**told, f"type {kind}{CUT}": "max_tokens"}
                yield asked[place]["key"], told


def item_key(kind: int, reference: str, candidate: str) -> str:
    """What an item is called: no two items of a pairs' file have one name."""
    return f"{kind} {reference} {candidate}"


def items(pairs: pl.DataFrame, texts: Mapping[str, str]) -> pl.DataFrame:
    """What is to be asked: of each pair of one step, each type.

    pairs: as annotate.pairs writes them; texts: step description by clip, of every clip of theirs.
    """
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
    """One line: a pair of clips, what is asked of it, and the answer."""

    reference: str
    candidate: str
    question: str
    answer: str
    type: int | None
    """of the supplement's prompts; None where the file does not say"""


def read_questions(path: str | Path) -> list[Question]:
    """All lines. StepDiffError: a fault in the file, named by line, or nothing in it."""
    found = [_question(row, place) for place, row in read_objects(path)]
    if not found:
        raise StepDiffError(f"{path}: no questions in it; run python -m annotate.pairqa")
    return found


def _question(row: dict[str, Any], place: str) -> Question:
    try:
        found = Question(row["reference"], row["candidate"], row["question"], row["answer"], row.get("type"))
    except KeyError as error:
        raise StepDiffError(f"{place}: not a PairQA row, it has no {error.args[0]}") from error
    texts = (found.reference, found.candidate, found.question, found.answer)
    if not all(isinstance(text, str) for text in texts) or not (found.type is None or isinstance(found.type, int)):
        raise StepDiffError(f"{place}: not a PairQA row; its clips, question and answer are texts, its type a number")
    return found
