"""Tools for tests of code that uses the feature store: a tiny store, strategies of hypothesis, and a state machine.

    store = tiny_store(tmp_path / "store")  # 6 clips, 4 texts, 3 views, exact values
    @given(small_view()) ...                # a view to write somewhere, with its values
    run_machine(MyMachine)                  # your store, location or reader against a model

Everything but `tiny_store` needs hypothesis: `pip install 'stepdiff[testing]'`.
"""

from typing import TYPE_CHECKING

import _stepdiff

if TYPE_CHECKING:
    from store.testing.machine import StoreMachine, run_machine
    from store.testing.strategies import SmallView, features, keys, provenances, row_values, small_view
    from store.testing.tiny import tiny_store

_MODULES = {
    "store.testing.machine": ("StoreMachine", "run_machine"),
    "store.testing.strategies": ("SmallView", "features", "keys", "provenances", "row_values", "small_view"),
    "store.testing.tiny": ("tiny_store",),
}
__all__ = [
    "SmallView", "StoreMachine", "features", "keys", "provenances", "row_values", "run_machine", "small_view",
    "tiny_store",
]  # fmt: skip

_find = _stepdiff.lazy(__name__, _MODULES)


def __getattr__(name: str) -> object:
    if name in __all__ and name != "tiny_store":
        _stepdiff.require("store.testing", "testing", ("hypothesis",))
    return _find(name)
