"""What the annotation pages send, as JSON."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from stepdiff.annotate.people.form import CATEGORIES, FORM_TEXT, HIGHEST, ID, LOWEST, Side
from stepdiff.app.annotating.people import MOST_NAME
from stepdiff.app.site import NO_NUL

Text = Annotated[str, Field(max_length=FORM_TEXT, pattern=NO_NUL)]
Category = Annotated[str, Field(max_length=ID, pattern=NO_NUL)]
Reason = Annotated[str, Field(max_length=200, pattern=NO_NUL)]
Score = Annotated[int, Field(ge=LOWEST, le=HIGHEST)]
Number = Annotated[int, Field(ge=1, le=2**31 - 1)]
Seconds = Annotated[float, Field(ge=0, le=1e7, allow_inf_nan=False)]


class _Sent(BaseModel):
    """A body: no other keys, and no value of another type."""

    model_config = ConfigDict(strict=True, extra="forbid")


class Changes(_Sent):
    """Fields of the form that changed. A score of null: none is chosen."""

    keystep: Text | None = None
    texts: dict[Category, Text] = Field(default={}, max_length=CATEGORIES)
    scores: dict[Category, Score | None] = Field(default={}, max_length=CATEGORIES)

    def fields(self) -> dict[str, object]:
        return self.model_dump(exclude_unset=True, exclude={"keystep"} if self.keystep is None else None)


class Save(_Sent):
    """Changes of an assignment."""

    number: Number
    """higher than that of the last save"""
    changes: Changes


class Submission(Save):
    """The last changes, and the end of an assignment."""

    rejected: Reason | None = None
    """reason; null: the pair is accepted"""
    seconds: Seconds


class Name(_Sent):
    """Who annotates."""

    name: Annotated[str, Field(max_length=10 * MOST_NAME, pattern=NO_NUL)]


class Someone(_Sent):
    """A person, by id."""

    person: Annotated[int, Field(ge=1, le=2**62)]


class Adjudication(_Sent):
    """The answer that decides about a pair."""

    pair: Annotated[str, Field(max_length=ID, pattern=NO_NUL)]
    keystep: Text
    texts: dict[Category, Text] = Field(max_length=CATEGORIES)
    scores: dict[Category, Score] = Field(max_length=CATEGORIES)
    rejected: Reason | None = None
    left: Side = "reference"
    """the clip that the texts compare the other one with"""


class Import(_Sent):
    """Tasks of a Label Studio export."""

    tasks: Annotated[list[object], Field(max_length=10_000)]
    first: Number = 1
    """place of the first of these tasks in the file, from 1"""
