"""A small ViDiC-1K: a checklist of four pairs and two prompts."""

import json
from pathlib import Path
from typing import Any

CLASSES = ("subject", "camera")
JUDGE_PROMPT = (
    '"Is it \\"yes\\"?\\n"\n"{{\\"answer\\": \\"yes/no\\"}}\\n"\n"{description}|{question}"'
)


def pair(number: int, similarities: int, differences: int) -> dict[str, Any]:
    """Return an entry of the checklist."""
    sections = {"Similarities": (similarities, "no"), "Differences": (differences, "yes")}
    return {
        "index": number,
        "video1_path": f"data/set {number % 2}/{number}_a.mp4",
        "video2_path": f"data/set {number % 2}/{number}_b.mp4",
        "structured_analysis": {
            name: [
                {
                    "class": CLASSES[i % 2],
                    "question": f"{name} {number} {i}?",
                    "correct_answer": answer,
                    "answer": "",
                }
                for i in range(count)
            ]
            for name, (count, answer) in sections.items()
        },
    }


PAIRS = [pair(0, 2, 3), pair(1, 0, 1), pair(2, 3, 0), pair(3, 1, 4)]


def write(folder: Path, pairs: Any = PAIRS, inside: bool = False) -> Path:
    """Write a folder of the benchmark, flat or as the authors' repository."""
    files = {
        "checklist/checklist.json": json.dumps(pairs),
        "prompt/prompt_get_response.txt": "Compare Video A and Video B.",
        "prompt/prompt_judge.txt": JUDGE_PROMPT,
    }
    for name, text in files.items():
        path = folder / (name if inside else Path(name).name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    return folder
