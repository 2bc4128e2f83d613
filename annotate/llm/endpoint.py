"""The URL of a language model's server, and what of it may appear in messages, logs and records.

Guarantees
- nothing_secret_is_shown: user, password and query string of a URL appear in no message and no file
"""

from urllib.parse import urlsplit


def is_url(endpoint: str) -> bool:
    """Return whether `endpoint` is an http or https URL with a host."""
    try:
        parts = urlsplit(endpoint)
        return endpoint.isascii() and parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket left open, a port that is no number
        return False


def shown(endpoint: str) -> str:
    """Return scheme, host, port and path of a URL; of anything else, that it is none."""
    if not is_url(endpoint):
        return "what is no URL"
    parts = urlsplit(endpoint)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    port = "" if parts.port is None else f":{parts.port}"
    return f"{parts.scheme}://{host}{port}{parts.path}"
