"""What a user says for a model -> the folder or file that holds it.

In this order: a name registered here; a path that exists; a model of the Hugging Face hub
(`org/name` or `org/name@revision`).

Guarantees
----------
- A registered name never starts a download by itself.
- A model that the hub's own cache holds is used without asking the network
  (`test_a_cached_hub_model_needs_no_network`).
- Only safetensors, configuration and tokenizer files are downloaded: no pickle, no code.
"""

import json
import re
from pathlib import Path

import _stepdiff
from common.errors import StepDiffError
from weights import registry
from weights.cache import cache_folder, is_complete

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")
_HUB_FILES = ("*.safetensors", "*.json", "*.txt", "*.model", "*.jinja")


def resolve(name: str) -> Path:
    """The local folder (or file) of a model.

    Args:
        name: a registered name, a path, or a hub id.

    Raises:
        StepDiffError: a registered name that was not fetched, a hub model out of reach, or
            nothing of that kind.
    """
    if name in registry.NAMES:
        if not is_complete(registry.source(name)):
            raise StepDiffError(f"{name} is not fetched yet: run python -m weights fetch {name}")
        return cache_folder() / name
    path = Path(name).expanduser()
    if path.exists():
        return path.absolute()
    match = _HUB_ID.fullmatch(name)
    if match is None:
        raise StepDiffError(
            f"no weights at {name!r}: give a folder, a hub id (org/name), or one of {', '.join(registry.NAMES)}"
        )
    return _from_hub(match["repo"], match["revision"])


def _is_whole(snapshot: Path) -> bool:
    """Whether weights are there, and all files that an index of them names: a download may have broken off."""
    try:
        named = {
            file
            for index in snapshot.glob("*.safetensors.index.json")
            for file in json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        }
        return any(snapshot.glob("*.safetensors")) and all((snapshot / file).exists() for file in named)
    except (OSError, ValueError, LookupError, TypeError, AttributeError):  # an index that is none
        return False


def _from_hub(repo: str, revision: str | None) -> Path:
    _stepdiff.require("a hub id", "featurize", ("huggingface_hub",))
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        cached = Path(snapshot_download(repo, revision=revision, local_files_only=True))
        if _is_whole(cached):
            return cached
    except HFValidationError as problem:
        raise StepDiffError(f"{repo!r} is no hub id and no path ({problem})") from None
    except LocalEntryNotFoundError:
        pass
    try:
        found = Path(snapshot_download(repo, revision=revision, allow_patterns=list(_HUB_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as problem:
        reason = str(problem).strip().splitlines()[0].rstrip(".") if str(problem) else "no answer"
        raise StepDiffError(
            f"{repo} is neither a path nor in the hub's cache, and the hub did not give it "
            f"({reason}): check the name and the connection, or give a local folder"
        ) from None
    # Where the hub is out of reach, what is cached comes, whole or not.
    if any(found.glob("*.safetensors.index.json")) and not _is_whole(found):
        raise StepDiffError(f"{repo}: its download broke off ({found}): run again where the hub is in reach")
    return found
