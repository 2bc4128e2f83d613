"""A language model that is sent messages and answers: in this process, or at a server.

Guarantees
- a conversation that cannot be answered is a Failure in its place, and the others are answered
- an answer that the limit of tokens ended is told from a whole one
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol, runtime_checkable

from annotate.llm.endpoint import shown
from annotate.qa.prompts import Message
from annotate.stages.job import Failure
from common.errors import StepDiffError


@dataclass(frozen=True)
class Sampling:
    max_tokens: int = 128
    """longest answer, tokens"""
    temperature: float = 0.0
    """0 takes the likeliest token; 1 draws from the model's own distribution"""
    top_p: float = 1.0
    """draws among the likeliest tokens that hold this much probability"""
    seed: int = 0
    """seed of the draws"""


class CutOff(str):
    """An answer that Sampling.max_tokens ended, not the model."""


@runtime_checkable
class LLM(Protocol):
    @property
    def busy(self) -> float:
        """Seconds that the model has worked, or was waited for."""

    def chat(
        self, conversations: Sequence[Sequence[Message]], sampling: Sampling
    ) -> Iterator[tuple[int, str | Failure]]:
        """Place and answer of every conversation, as they come."""


@dataclass(frozen=True, kw_only=True)
class LLMOptions:
    """Which language model, and how it is asked."""

    llm: str = "smollm2-135m-instruct"
    """name, folder or hub id of a causal language model; with endpoint the name of the model that is served"""
    endpoint: str | None = None
    """URL of an OpenAI-compatible server (http://127.0.0.1:8000/v1); its key is taken from OPENAI_API_KEY, unless the
    URL holds user:password@. Messages and records show no user, password or query string"""
    batch: int = 16
    """conversations answered at once"""
    precision: Literal["float32", "bfloat16"] | None = None
    """of a model in this process; null is bfloat16 on a GPU, else float32. A CPU that multiplies bfloat16 takes two
    thirds of the time, but what shares an answer's batch may then change its words"""
    requests_per_second: float | None = None
    """most requests that a worker sends to the server a second"""
    timeout: float = 120.0
    """seconds that a whole answer of the server may take, from connecting to its last byte"""
    retries: int = 4
    """times that a request is sent again, after pauses of 1, 2, 4 ... seconds"""
    sampling: Sampling = Sampling()
    """how answers are drawn"""

    def __post_init__(self) -> None:
        if self.batch < 1 or self.sampling.max_tokens < 1:
            raise StepDiffError(f"batch {self.batch}, max_tokens {self.sampling.max_tokens}: neither may be below 1")
        if self.sampling.temperature < 0 or not 0 < self.sampling.top_p <= 1:
            raise StepDiffError(
                f"temperature {self.sampling.temperature}, top_p {self.sampling.top_p}: the first is 0 or more, the "
                "second above 0 and at most 1"
            )
        rate = self.requests_per_second
        if self.timeout <= 0 or self.retries < 0 or (rate is not None and rate <= 0):
            raise StepDiffError(
                f"timeout {self.timeout}, retries {self.retries}, requests_per_second {rate}: the second is 0 or more, "
                "the others above 0"
            )
        if self.endpoint is not None and self.precision is not None:
            raise StepDiffError(
                f"precision {self.precision}: {shown(self.endpoint)} chooses its own; leave out --precision or "
                "--endpoint"
            )

    @classmethod
    def of(cls, options: "LLMOptions") -> "LLMOptions":
        """These alone, out of a stage's options."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    @property
    def served(self) -> bool:
        """Whether the model computes at a server, so that no worker needs a GPU."""
        return self.endpoint is not None

    def provenance(self) -> dict[str, Any]:
        """Model, weights and sampling; a served model has a name only."""
        from weights import fingerprint, resolve

        weights = "as served" if self.endpoint else fingerprint(resolve(self.llm))
        told = {"model": self.llm, "weights": weights, "sampling": asdict(self.sampling)}
        return told if self.precision is None else told | {"precision": self.precision}

    def load(self, device: str) -> LLM:
        """StepDiffError: no such model, or not one that answers messages."""
        if self.endpoint is not None:
            from annotate.llm.server import ServedLLM

            return ServedLLM(self.endpoint, self.llm, self.batch, self.timeout, self.retries, self.requests_per_second)
        from annotate.llm.local import LocalLLM

        return LocalLLM(self.llm, device, self.batch, self.precision)
