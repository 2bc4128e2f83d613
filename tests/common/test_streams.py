"""Guarantees of common/streams.py, and no room makes a random stream in another way."""

import ast
import itertools
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from common.streams import PURPOSES, generator, published, torch_seed

ROOT = Path(__file__).parents[2]
ROOMS = ("tasks", "heads", "annotate", "retrieval", "app")
# retrieval.mining.negatives seeds Python's generator with the words of a question, which fixes the published test sets;
# heads.llm.server waits for a random time before it asks a server again, which no result depends on.
PYTHON_RANDOM = {"retrieval/mining/negatives.py", "heads/llm/server.py"}


def test_two_seeds_two_purposes_or_two_steps_have_different_streams() -> None:
    seeds, steps = (0, 1, 2, -1, 2**32, 2**64), (0, 1, 2, 3, "0", "1", "whisk")
    names = list(itertools.product(seeds, PURPOSES, steps))
    assert len({int(generator(*name).integers(2**63)) for name in names}) == len(names)
    assert len({torch_seed(*name) for name in names}) == len(names)
    assert len(set(PURPOSES.values())) == len(PURPOSES)
    # a seed is never a neighbour's seed with another step, as seed + step was
    first, second = ({torch_seed(seed, "dropout", step) for step in range(500)} for seed in (0, 1))
    assert not first & second


def test_a_stream_is_the_same_in_every_process() -> None:
    asked = "print(generator(3, 'questions of a pair', 7).integers(10**9), torch_seed(3, 'dropout', 'whisk'))"
    code = f"from common.streams import generator, torch_seed; {asked}"
    for hash_seed in ("1", "2"):
        environment = {"PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
        out = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        assert out.stdout.split() == ["159377804", "10228178760667634519"]


def test_the_published_stream_is_that_of_numpy() -> None:
    assert published(5).integers(2**60) == np.random.default_rng(5).integers(2**60)


def trees() -> Iterator[tuple[str, ast.AST]]:
    for room in ROOMS:
        for file in sorted((ROOT / room).rglob("*.py")):
            yield file.relative_to(ROOT).as_posix(), ast.parse(file.read_text(encoding="utf-8"))


def test_every_purpose_is_used_in_one_place() -> None:
    found = Counter(
        node.value
        for _, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value in PURPOSES
    )
    assert found == dict.fromkeys(PURPOSES, 1)


def test_no_room_makes_a_random_stream_in_another_way() -> None:
    """Every seed comes from common.streams, and nothing draws from a generator without a seed."""
    odd = []
    for name, tree in trees():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import | ast.ImportFrom):
                modules = [a.name for a in node.names] if isinstance(node, ast.Import) else [node.module]
                if "random" in modules and name not in PYTHON_RANDOM:
                    odd.append(f"{name}:{node.lineno} imports random")
            if not isinstance(node, ast.Call):
                continue
            called = ast.unparse(node.func)
            last = called.rpartition(".")[2]
            if called.startswith(("np.random.", "numpy.random.", "random.")) and name not in PYTHON_RANDOM:
                odd.append(f"{name}:{node.lineno} {called}")
            given = ast.unparse(node.args[0]) if node.args else ""
            if last in ("manual_seed", "manual_seed_all") and not given.startswith("torch_seed("):
                odd.append(f"{name}:{node.lineno} {called}({given})")
    assert not odd


def test_a_seeded_torch_generator_draws_the_same_again() -> None:
    seed = torch_seed(1, "dropout", 2)
    first, again = (torch.rand(5, generator=torch.Generator().manual_seed(seed)) for _ in range(2))
    assert torch.equal(first, again)
