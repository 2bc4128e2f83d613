"""From the shell to the answer about two files: `stepdiff compare` next to a script with
transformers alone that asks the same model the same question.

python -m benchmarks.compare --weights Qwen/Qwen3-VL-2B-Instruct    # a model in the cache
python -m benchmarks.compare                                        # a small random one: all but
                                                                    # its arithmetic

Both decode the same eight frames of each clip and write greedy text, every run in a new process;
no time is reported unless both answers are the same. The table has the seconds from each message of
`compare` to the next. After the answer it compares each category and aligns the clips, which the
script does not. A second run reads features that the first one kept.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from statistics import median
from typing import Any

from benchmarks.harness import benchmark, race, render_kitchen
from stepdiff_core.cli import command
from stepdiff_core.cli.options import at_least
from stepdiff_core.errors import StepDiffError
from stepdiff_core.tasks.prompts import PAIR_SYSTEM
from stepdiff_core.threads import cores

ROOT = Path(__file__).parents[1]
QUESTION = "What did I do differently in video 2?"
FIRST, AGAIN, LOOP = "compare", "compare, features kept", "transformers"
AFTER = "comparing the clips in each category"  # message of compare after the answer
WANTED = round(1 / 1.3, 3)  # of the script's speed
SCRIPT = """
import json, sys
import av, numpy as np, torch
from transformers import AutoModelForImageTextToText, AutoProcessor

weights, most, prompt, *files = sys.argv[1:]
processor = AutoProcessor.from_pretrained(weights)
model = AutoModelForImageTextToText.from_pretrained(weights, dtype=torch.float32).eval()
videos, metadata = [], []
for file in files:
    with av.open(file) as container:
        count = sum(1 for _ in container.decode(video=0))
        container.seek(0)
        chosen = np.linspace(0, count - 1, 8).astype(int).tolist()
        frames = [f for n, f in enumerate(container.decode(video=0)) if n in chosen]
    videos.append(np.stack([frame.to_ndarray(format="rgb24") for frame in frames]))
    metadata.append({
        "fps": 1000.0, "frames_indices": [round(1000 * frame.time) for frame in frames],
        "total_num_frames": count, "duration": 1.0,
    })
first, *others = prompt.split("{video}")
content = [{"type": "text", "text": first}]
for text in others:
    content += [{"type": "video"}, {"type": "text", "text": text}]
text = processor.apply_chat_template(
    [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
)
inputs = processor(
    text=[text], videos=videos, video_metadata=metadata, do_sample_frames=False, return_tensors="pt"
)
with torch.inference_mode():
    ids = model.generate(**inputs, max_new_tokens=int(most), do_sample=False)
answer = ids[0, inputs["input_ids"].shape[1]:]
print(json.dumps({"answer": processor.decode(answer, skip_special_tokens=True).strip()}))
"""


@dataclass(frozen=True)
class CompareBenchmarkOptions:
    weights: str | None = None
    """a video language model of transformers, a folder or hub id; by default a small random
    Qwen3-VL"""
    max_tokens: int = 64
    """longest answer, in tokens"""
    rounds: int = 3
    """measurements of each, whose median counts"""
    folder: Path = Path("data/bench")
    """where videos and weights are made and stay"""


def random_model(folder: Path) -> str:
    """Write a Qwen3-VL with random weights, if it is not there; return its folder."""
    from tests.heads.public.vlms import save

    weights = folder / "qwen3_vl_random"
    if not (weights / "processor_config.json").exists():
        save("qwen3_vl", weights)
    return str(weights)


def run(options: CompareBenchmarkOptions) -> dict[str, Any]:
    """Return the record."""
    at_least(options, max_tokens=1, rounds=1)
    options.folder.mkdir(parents=True, exist_ok=True)
    folder = options.folder.absolute()
    weights = options.weights or random_model(folder)
    if Path(weights).exists():
        weights = str(Path(weights).absolute())
    _, clips = render_kitchen(folder, 3)
    files, most = clips["video"].unique(maintain_order=True).to_list()[:2], str(options.max_tokens)
    taken: dict[tuple[str, str], list[float]] = {}
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        store = Path(scratch, "features")
        ours = f"-m stepdiff compare --json --progress json --model {weights} --max-tokens {most}"
        compare = [*ours.split(), "--store", str(store), "--ask", QUESTION, *files]
        script = ["-c", SCRIPT, weights, most, f"{PAIR_SYSTEM} {QUESTION}", *files]
        for turn in range(options.rounds + 1):
            rmtree(store, ignore_errors=True)
            answers = set()
            for way, words in ((FIRST, compare), (AGAIN, compare), (LOOP, script)):
                answer, stages = answered(words)
                answers.add(answer)
                for stage, seconds in stages if turn else ():  # the first round warms up
                    taken.setdefault((way, stage), []).append(seconds)
            if len(answers) != 1:
                raise StepDiffError(
                    f"the answers differ, so the times are not comparable: {answers}"
                )
    rows = [
        {"way": way, "stage": stage, "seconds": round(median(seconds), 2)}
        for (way, stage), seconds in taken.items()
    ]
    to_answer = {
        way: sum(median(taken[key]) for key in taken if key[0] == way and key[1] != AFTER)
        for way in (FIRST, AGAIN, LOOP)
    }
    held = [
        race(f"{way}, to the answer", to_answer[LOOP], to_answer[way], wanted, LOOP)
        for way, wanted in ((FIRST, WANTED), (AGAIN, None))
    ]
    return {"rows": rows, "races": held, "weights": weights, "threads": cores()}


def answered(words: list[str]) -> tuple[str, list[tuple[str, float]]]:
    """Run Python with these words and return the answer that it prints, and the seconds from each
    message on standard error to the next. StepDiffError: it fails."""
    begin, said, line = time.perf_counter(), "start", ""
    stages: list[tuple[str, float]] = []
    with (
        tempfile.TemporaryFile("w+") as output,
        subprocess.Popen(
            [sys.executable, *words],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
        ) as process,
    ):
        assert process.stderr is not None
        for line in process.stderr:
            message = json.loads(line).get("message") if line.startswith("{") else None
            if message is not None and not message.startswith("features: "):
                now = time.perf_counter()
                stages.append((said, now - begin))
                begin, said = now, message
        code = process.wait()
        stages.append((said, time.perf_counter() - begin))
        output.seek(0)
        printed = output.read()
    if code:
        raise StepDiffError(f"python {' '.join(words[:3])} failed: {line.strip()}")
    return json.loads(printed)["answer"], stages


main = benchmark("compare", CompareBenchmarkOptions, __doc__, run)

if __name__ == "__main__":
    command.run(main)
