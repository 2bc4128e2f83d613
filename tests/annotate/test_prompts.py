"""Guarantees of annotate.qa.prompts."""

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from annotate.qa import prompts
from annotate.qa.prompts import DESCRIBE, PAIRQA, Prompt, read_prompt
from common.errors import StepDiffError
from tasks.prompts import SYSTEM

SUPPLEMENT = Path(__file__).parents[3] / "shared/seeds"
FIELDS = {"narration": "we whisk", "action_caption": "a hand whisks", "object_caption": "eggs"}


def published() -> list[str]:
    """Return the supplement's prompts in order with joined lines; a line ending in a hyphen continues in the next."""
    text = "".join(path.read_text(encoding="utf-8") for path in sorted(SUPPLEMENT.glob("*.txt")))
    found = re.findall(r"```\n\[[A-Z0-9_ ]*PROMPT[A-Z0-9_]*\]\n(.*?)```", text, flags=re.DOTALL)
    return [" ".join(prompt.replace("-\n", "-").split()) for prompt in found]


@pytest.mark.skipif(not SUPPLEMENT.is_dir(), reason=f"the supplement is not in {SUPPLEMENT}")
def test_the_published_prompts_are_those_of_the_supplement() -> None:
    ours = [
        SYSTEM,
        prompts.ACTION_QUESTION,
        prompts.OBJECT_QUESTION,
        DESCRIBE.system,
        DESCRIBE.user,
        PAIRQA[1].system,
        *(PAIRQA[kind].user for kind in (1, 2, 3)),
    ]
    assert [" ".join(prompt.split()) for prompt in ours] == published()
    assert len({PAIRQA[kind].system for kind in PAIRQA}) == 1


def test_a_template_with_a_missing_or_unknown_field_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StepDiffError, match="prompt mine: its template lacks {step}; add it"):
        Prompt("mine", "You see.", "Describe it.", ("step",))
    with pytest.raises(StepDiffError, match="prompt mine: unknown field {other}; use step"):
        Prompt("mine", "You see {other}.", "Describe {step}.", ("step",))
    with pytest.raises(StepDiffError, match="prompt mine: .*write a brace that begins no field twice"):
        Prompt("mine", "You see }.", "Describe {step}.", ("step",))
    for form in ("{step:{width}}", "{step:d}", "{step!r}"):
        with pytest.raises(StepDiffError, match="prompt mine: a field is its name in braces alone"):
            Prompt("mine", "You see.", f"Describe {form}.", ("step",))
    path = tmp_path / "mine.yaml"
    path.write_text("system: Be short.\nuser: '{narration} {action_caption}'\n")
    with pytest.raises(StepDiffError, match=r"describe of .*mine.yaml: its template lacks {object_caption}"):
        read_prompt(str(path), DESCRIBE)
    for broken in ("user: '{narration}'", "- a list", "a: [", "just words", "system:\nuser: '{narration}'"):
        path.write_text(broken)
        with pytest.raises(StepDiffError, match="no prompt of `system` and `user`") as caught:
            read_prompt(str(path), DESCRIBE)
        assert "\n" not in str(caught.value)
    with pytest.raises(StepDiffError, match="no prompt of"):
        read_prompt(str(tmp_path / "absent.yaml"), DESCRIBE)
    with pytest.raises(StepDiffError, match="prompt describe: no value for {object_caption}"):
        DESCRIBE.messages(narration="we whisk", action_caption="a hand whisks")


@given(st.text(), st.text(), st.text())
def test_the_text_of_a_field_is_never_read_as_a_template(narration: str, action: str, objects: str) -> None:
    system, user = DESCRIBE.messages(narration=narration, action_caption=action, object_caption=objects)
    before, _, rest = DESCRIBE.user.partition("{narration}")
    between, _, rest = rest.partition("{action_caption}")
    then, _, end = rest.partition("{object_caption}")
    assert user == {"role": "user", "content": before + narration + between + action + then + objects + end}
    assert system == {"role": "system", "content": DESCRIBE.system}


def test_a_changed_letter_changes_the_sha256(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("system: |-\n  " + DESCRIBE.system + "\nuser: |-\n  " + DESCRIBE.user.replace("\n", "\n  ") + "\n")
    same = read_prompt(str(path), DESCRIBE)
    assert same.messages(**FIELDS) == DESCRIBE.messages(**FIELDS) and same.sha256 == DESCRIBE.sha256
    others = [Prompt("other", DESCRIBE.system + " ", DESCRIBE.user, DESCRIBE.fields), *PAIRQA.values(), DESCRIBE]
    assert len({prompt.sha256 for prompt in others}) == len(others)
    assert read_prompt(None, DESCRIBE) is DESCRIBE
