"""Random text is a clip id that is split as written, or a one-line error."""

import math

from hypothesis import example, given
from hypothesis import strategies as st

from common.errors import StepDiffError
from tasks.testsets import split_clip

NEARLY = st.lists(
    st.sampled_from(["_", ".", "-", "0", "12", "3.5", "1e5", "+1", "\u0663", "v", "\n", " ", "nan", "inf", "\ud800"])
)


@given(st.text() | NEARLY.map("".join))
@example("a_0_1\n")
@example("_0_1")
@example("a_\u0660_\u0661")
@example("a\nb_0_1")
def test_random_text_is_a_clip_id_or_refused_in_one_line(text: str) -> None:
    try:
        video, start, end = split_clip(text)
    except StepDiffError as error:
        assert "\n" not in str(error) and "is not a clip id" in str(error)
        return
    assert f"{video}_{start}_{end}" == text and [video, start, end] == text.rsplit("_", 2)
    assert video and all(math.isfinite(float(time)) and float(time) >= 0 for time in (start, end))
