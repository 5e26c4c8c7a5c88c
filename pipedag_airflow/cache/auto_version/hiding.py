"""What hides from us which code a function uses: it finds modules, names or code by a text."""

from __future__ import annotations

import sys
import types
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["HIDES", "hidden_in", "hides"]

#: Says in an error why something cannot be followed.
HIDES = "which finds code by a text: import what the task uses at the top of the module"
_HIDING = {
    "builtins": frozenset({"eval", "exec", "globals", "__import__"}),
    "importlib": frozenset({"import_module", "module_from_spec", "reload", "__import__"}),
    "importlib.util": frozenset({"module_from_spec"}),
    "pkgutil": frozenset({"resolve_name"}),
    "pydoc": frozenset({"locate"}),
    "runpy": frozenset({"run_module", "run_path"}),
    "sys": frozenset({"modules"}),
}


def hides(value: Any) -> bool:
    """Say whether a value is one of the things that find code by a text."""
    if isinstance(value, (types.FunctionType, types.BuiltinFunctionType)):
        return value.__name__ in _HIDING.get(str(value.__module__), ())
    return value is sys.modules


def hidden_in(module: str, names: Iterable[str]) -> str | None:
    """Return which of the names finds code by a text in the module, in full; None if none does."""
    found = sorted(_HIDING.get(module, frozenset()).intersection(names))
    return f"{module}.{found[0]}" if found else None
