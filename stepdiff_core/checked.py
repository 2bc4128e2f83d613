"""Values from outside, checked by pydantic: errors in one line that names the place, the keys and
the fault."""

from collections.abc import Callable
from typing import Any, TypeVar

from pydantic import ValidationError

from stepdiff_core.errors import StepDiffError

T = TypeVar("T")
_WORDS = {
    "missing": "is missing",
    "missing_argument": "is missing",
    "extra_forbidden": "is no key here",
    "unexpected_keyword_argument": "is no key here",
    "json_invalid": "is not JSON",
    "string_pattern_mismatch": "should not be empty",
    "dataclass_type": "should be an object",
    "model_type": "should be an object",
    "tuple_type": "should be a list",
    "list_type": "should be a list",
}


def checked(validate: Callable[[Any], T], value: Any, where: str = "", advice: str = "") -> T:
    """Validate a value with pydantic and return the result. StepDiffError names `where`, the keys,
    the fault and `advice`."""
    try:
        return validate(value)
    except ValidationError as error:
        fault = error.errors(include_url=False)[0]
        keys = [f"{key:.80}" for key in map(str, fault["loc"]) if key != "[key]"]
        words = _WORDS.get(fault["type"]) or fault["msg"].partition(" ")[2]
        if fault["type"] == "value_error":
            words = str(fault["ctx"]["error"])
        elif not words.startswith("is "):
            words += f", not {fault['input']!r:.80}"
        problem = ": ".join([*keys[:-1], f"{keys[-1]} {words}" if keys else words])
        raise StepDiffError(f"{where}{problem}{advice}") from None
