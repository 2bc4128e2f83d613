"""The prompts of the supplement's S1, to the letter, and the templates that fill their fields."""

import hashlib
import json
import string
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from heads.llm.model import Message
from stepdiff_core.errors import StepDiffError, first_line
from stepdiff_core.io import yaml_file

# (S1) for a captioning model, after the system prompt (stepdiff_core.tasks.prompts.SYSTEM).
ACTION_QUESTION = "In one short sentence, describe what the person is doing?"
OBJECT_QUESTION = (
    "Give a very short list of all objects that are visible and their attributes, one per line. "
    "Only list objects being used, NOT in the background."
)
CaptionKind = Literal["action", "objects"]
QUESTIONS: dict[CaptionKind, str] = {"action": ACTION_QUESTION, "objects": OBJECT_QUESTION}
# Ours: the value of a field if a clip has no narration, or no object was found.
NOTHING = "none"


@dataclass(frozen=True)
class Prompt:
    """A system prompt and a user message with {fields}. StepDiffError unless they contain exactly
    `fields`."""

    name: str
    system: str
    user: str
    fields: tuple[str, ...]

    def __post_init__(self) -> None:
        try:
            parsed = [
                part for text in (self.system, self.user) for part in string.Formatter().parse(text)
            ]
        except ValueError as error:
            raise StepDiffError(
                f"prompt {self.name}: {error}; write a brace that begins no field twice"
            ) from None
        fields = {name for _, name, _, _ in parsed if name is not None}
        if missing := [name for name in self.fields if name not in fields]:
            raise StepDiffError(f"prompt {self.name}: its template lacks {{{missing[0]}}}; add it")
        if unknown := sorted(fields.difference(self.fields)):
            raise StepDiffError(
                f"prompt {self.name}: unknown field {{{unknown[0]}}}; use {', '.join(self.fields)}"
            )
        if any(form or conversion for _, name, form, conversion in parsed if name is not None):
            raise StepDiffError(
                f"prompt {self.name}: a field is its name in braces alone, without : or !"
            )

    @property
    def sha256(self) -> str:
        return hashlib.sha256(json.dumps([self.system, self.user]).encode()).hexdigest()

    def messages(self, **values: str) -> list[Message]:
        """Return the messages to a language model; `values` has a text for each field."""
        return [
            {"role": "system", "content": self.system.format(**values)},
            {"role": "user", "content": self.user.format(**values)},
        ]


# (S1) one step description from all texts about a clip.
DESCRIBE = Prompt(
    "describe",
    "You are an AI assistant that synthesizes the output of narration, action and object "
    "captioning models into a single description of the content.",
    "Video narration: {narration}.\nPossible activity: {action_caption}.\nPossible objects: "
    "{object_caption}.\nSummarize the captions into a single, descriptive sentence about what the "
    "person is doing, and using what objects.",
    ("narration", "action_caption", "object_caption"),
)

_PAIR_SYSTEM = (
    "You are an AI assistant that asks questions comparing two videos based on their descriptions, "
    "and then answers "
    'them. Each question must be on a new line starting with "Q:" for question and "A:" for the '
    "answer. Use diverse "
    "language.\nVideo 1: {step_description_1}\nVideo 2: {step_description_2}"
)
# (S1) the three types of paired questions.
_PAIR_USERS: Sequence[str] = (
    "Summarize the differences and generate 3 question-answer pairs comparing the two videos. "
    "Answers should be short and concise.",
    'Generate 3 question-answer pairs of the form "Which video ... ?". The answer must only refer '
    "to one of the two "
    "videos.",
    "Do the two videos share a similar main action? Answer with a single word: YES or NO.",
)
PAIRQA: dict[int, Prompt] = {
    kind: Prompt(
        f"pairqa type {kind}", _PAIR_SYSTEM, user, ("step_description_1", "step_description_2")
    )
    for kind, user in enumerate(_PAIR_USERS, 1)
}
"""type -> its prompt"""


def read_prompt(path: str | None, published: Prompt) -> Prompt:
    """Return the published prompt, or the one of a YAML file: `system` and `user`, with the same
    fields."""
    if path is None:
        return published
    try:
        keys = yaml_file.read(path)
        system, user = keys["system"], keys["user"]
        if not (isinstance(system, str) and isinstance(user, str)):
            raise TypeError("one of them is not text")
        return Prompt(f"{published.name} of {path}", system, user, published.fields)
    except StepDiffError as error:
        raise StepDiffError(f"{error}; no prompt of `system` and `user` was read") from None
    except (KeyError, TypeError) as error:
        why = f"no prompt of `system` and `user` ({first_line(error)})"
        raise StepDiffError(f"{path}: {why}; write both as YAML") from None
