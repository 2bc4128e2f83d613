"""Commands that an error names, as a user can paste them."""

import re
import shlex

from store import Store

_ENCODER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")  # what featurize takes; a head's view says more


def command(*words: object) -> str:
    """A command in backquotes, each word quoted for the shell where it has to be."""
    return f"`{shlex.join(str(word) for word in words)}`"


def fill(store: Store, view: str, encoder: str, manifest: object) -> str:
    """The commands that add a manifest's clips or texts to `view`, which `encoder` made."""
    featurize = ["python", "-m", "featurize", "--manifest", manifest, "--store", store.path]
    if _ENCODER.fullmatch(encoder):
        named = [] if encoder == view else ["--view", view]
        return command(*featurize, "--encoder", encoder, *named)
    embed = command("python", "-m", "heads.embed", "--head", "RUN", "--store", store.path, "--view", view)
    return f"{command(*featurize, '--encoder', 'ENCODER')}, then {embed} (the view is a {encoder})"
