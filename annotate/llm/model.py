"""The contract of a language model that answers messages, and the URL of one at a server.

Guarantees
- a conversation that cannot be answered is a Failure in its place, and the others are answered
- an answer that was cut by the token limit is distinguished from a complete one
- nothing_secret_is_shown: user, password and query string of a URL appear in no message and no file
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable
from urllib.parse import urlsplit

from annotate.qa.prompts import Message
from annotate.stages.job import Failure


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
    """An answer that Sampling.max_tokens ended, not the model."""


@runtime_checkable
class LLM(Protocol):
    @property
    def busy(self) -> float:
        """Seconds that the model has worked, or that its answers took."""

    def chat(
        self, conversations: Sequence[Sequence[Message]], sampling: Sampling
    ) -> Iterator[tuple[int, str | Failure]]:
        """Yield place and answer of every conversation, in any order."""


def is_url(endpoint: str) -> bool:
    """Return whether `endpoint` is an http or https URL with a host."""
    try:
        parts = urlsplit(endpoint)
        return endpoint.isascii() and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
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
