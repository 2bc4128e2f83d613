"""Guarantees of annotate/qa/job.py, with a server."""

import json
from dataclasses import replace
from typing import Any

import polars as pl

from annotate.qa.job import PairQAJob, item_key, items
from annotate.qa.prompts import PAIRQA
from heads.llm.model import LLMOptions, Sampling
from tests.llm_server import Reply, Server, said

PAIRS = pl.DataFrame(
    {
        "pair": [0, 1, 2],
        "reference": ["a", "b", "c"],
        "candidate": ["b", "c", "a"],
        "same_step": [True, False, True],
    }
)
TEXTS = {"a": "whisks {eggs}", "b": 'says "Q: why?"', "c": "chops"}


def job(server: Server) -> PairQAJob:
    llm = LLMOptions(endpoint=server.url, sampling=Sampling(max_tokens=99))
    return PairQAJob(llm, "sha", ('{"by": "hand"}',), "of texts")


def test_a_pair_of_one_step_gets_three_prompts_and_a_pair_of_different_steps_none() -> None:
    asked = items(PAIRS, TEXTS)
    assert asked["key"].to_list() == [
        item_key(kind, *clips) for clips in (("a", "b"), ("c", "a")) for kind in (1, 2, 3)
    ]
    assert asked["row"].to_list() == [0, 1, 2, 6, 7, 8]


def test_each_type_has_the_supplements_prompt_and_type_3_a_limit_of_one_word(server: Server) -> None:
    def answer(body: dict[str, Any]) -> Reply:
        return said(f"{body['max_tokens']} {json.dumps(body['messages'])}")

    server.answer = answer
    asked = items(PAIRS, TEXTS).drop("row").to_dicts()
    found = dict(job(server).load("cpu", 1).annotate(asked))
    assert set(found) == {item["key"] for item in asked}
    for item in asked:
        kind = item["type"]
        prompt = PAIRQA[kind].messages(**{name: item[name] for name in PAIRQA[kind].fields})
        assert found[item["key"]] == {f"type {kind}": f"{99 if kind < 3 else 8} {json.dumps(prompt)}"}


def test_another_pairs_file_or_another_description_is_another_provenance(server: Server) -> None:
    made = job(server)
    others = [replace(made, pairs="other"), replace(made, descriptions=("other",))]
    assert len({json.dumps(other.provenance()) for other in (made, *others)}) == 3
    assert made.provenance()["prompts"] == {f"type {kind}": PAIRQA[kind].sha256 for kind in (1, 2, 3)}
