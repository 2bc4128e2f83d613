"""A language model that answers messages: its contract, the options that choose one, and the URL of
one at a server.

Guarantees
- an answer that was cut by the token limit is distinguished from a complete one
- user, password and query string of a URL appear in no message and no file
"""

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, Protocol, runtime_checkable
from urllib.parse import urlsplit

import stepdiff_core
from stepdiff_core.errors import StepDiffError

Message = dict[str, str]
"""role (system or user) and content"""


@dataclass(frozen=True)
class Unanswered:
    """The reason why there is no answer, in one line."""

    reason: str
    passing: bool = False
    """whether the next run tries again without --retry-failed, because the item is not to blame: a
    server is down"""


@dataclass(frozen=True)
class Sampling:
    max_tokens: int = 128
    """longest answer, tokens"""
    temperature: float = 0.0
    """0 takes the most likely token; 1 samples from the model's own distribution"""
    top_p: float = 1.0
    """samples among the most likely tokens that hold this much probability"""
    seed: int = 0
    """seed of the sampling"""


class CutOff(str):
    """An answer that the most tokens that it may have ended, not the model."""


@runtime_checkable
class LLM(Protocol):
    def chat(
        self, conversations: Sequence[Sequence[Message]], sampling: Sampling
    ) -> Iterator[tuple[int, str | Unanswered]]:
        """Yield place and answer of every conversation, in any order; an Unanswered for one that
        cannot be answered."""


def is_url(endpoint: str) -> bool:
    """Return whether `endpoint` is an http or https URL with a host."""
    try:
        parts = urlsplit(endpoint)
        return (
            endpoint.isascii()
            and parts.scheme in ("http", "https")
            and bool(parts.hostname)
            and parts.port != 0
        )
    except ValueError:  # an unclosed bracket, a port that is not a number
        return False


def shown(endpoint: str) -> str:
    """Return scheme, host, port and path of a URL, which hold no secret."""
    if not is_url(endpoint):
        return "an invalid URL"
    parts = urlsplit(endpoint)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path}"


@dataclass(frozen=True, kw_only=True)
class LLMOptions:
    """Which language model answers, and how it is called."""

    llm: str = "smollm2-135m-instruct"
    """name, folder or hub id of a causal language model; with endpoint the name of the model that
    is served"""
    endpoint: str | None = None
    """URL of an OpenAI-compatible server (http://127.0.0.1:8000/v1); its key is taken from
    OPENAI_API_KEY, unless the URL holds user:password@. Messages and records show no user, password
    or query string"""
    batch: int = 16
    """conversations answered at once"""
    precision: Literal["float32", "bfloat16"] | None = None
    """of a model in this process; null is bfloat16 on a GPU, else float32. A CPU that multiplies
    bfloat16 takes two thirds of the time, but an answer's words may then depend on the other
    conversations of its batch"""
    requests_per_second: float | None = None
    """most requests that a worker sends to the server a second"""
    timeout: float = 120.0
    """seconds that a whole answer of the server may take, from connecting to its last byte"""
    retries: int = 4
    """times that a request is sent again, after pauses of 1, 2, 4 ... seconds"""
    sampling: Sampling = Sampling()
    """how answers are sampled"""

    def __post_init__(self) -> None:
        drawn, rate = self.sampling, self.requests_per_second
        for name, value, valid, expected in (
            ("batch", self.batch, self.batch >= 1, "1 or more"),
            ("sampling.max-tokens", drawn.max_tokens, drawn.max_tokens >= 1, "1 or more"),
            ("sampling.temperature", drawn.temperature, drawn.temperature >= 0, "0 or more"),
            ("sampling.top-p", drawn.top_p, 0 < drawn.top_p <= 1, "above 0 and at most 1"),
            ("timeout", self.timeout, self.timeout > 0, "above 0"),
            ("retries", self.retries, self.retries >= 0, "0 or more"),
            ("requests-per-second", rate, rate is None or rate > 0, "above 0"),
        ):
            if not valid:
                raise StepDiffError(f"--{name} {value}: give a number {expected}")
        if self.endpoint is not None and self.precision is not None:
            why = f"{shown(self.endpoint)} chooses its own"
            raise StepDiffError(
                f"--precision {self.precision}: {why}; leave out --precision or --endpoint"
            )

    @classmethod
    def of(cls, options: "LLMOptions") -> "LLMOptions":
        """Return these options alone, out of a stage's options."""
        return cls(**{field.name: getattr(options, field.name) for field in fields(cls)})

    @property
    def served(self) -> bool:
        """Whether the model computes at a server, so that no worker needs a GPU."""
        return self.endpoint is not None

    def provenance(self) -> dict[str, Any]:
        """Return model, weights and sampling; a served model has a name only."""
        from stepdiff_core.weights import fingerprint, resolve

        weights = "as served" if self.endpoint else fingerprint(resolve(self.llm))
        record = {"model": self.llm, "weights": weights, "sampling": asdict(self.sampling)}
        return record if self.precision is None else record | {"precision": self.precision}

    def load(self, device: str) -> LLM:
        """Load the model, or prepare to call the server. ImportError: a package of the extra
        annotate is missing."""
        if self.endpoint is not None:
            stepdiff_core.require("--endpoint", "annotate", ("httpx2",))
            from heads.llm.server import ServedLLM

            return ServedLLM(
                self.endpoint,
                self.llm,
                self.batch,
                self.timeout,
                self.retries,
                self.requests_per_second,
            )
        stepdiff_core.require("a chat template", "annotate", ("jinja2",))
        from heads.llm.local import LocalLLM

        return LocalLLM(self.llm, device, self.batch, self.precision)
