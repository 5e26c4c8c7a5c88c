"""Which code is the user's own, and which is installed: the latter counts by its version, not by its content."""

from __future__ import annotations

import sys
import sysconfig
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["home_of_name", "module_home"]

_OURS = __name__.partition(".")[0]
_STANDARD = tuple(Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib"))
_INSTALLED = frozenset({"site-packages", "dist-packages"})


def home_of_name(name: str | None) -> str | None:
    """Return the package and version that a loaded module belongs to; None if it is the user's own."""
    module = sys.modules.get(name) if name else None
    return None if module is None else module_home(module)


def module_home(module: ModuleType) -> str | None:
    """Return the package and version that a module belongs to; None if it is the user's own."""
    name = module.__name__
    top = name.partition(".")[0]
    if top == _OURS:
        # A release of ours must not run every task anew: what it means for stored results is told by the metadata.
        return _OURS
    if top in sys.builtin_module_names:
        return _python()
    return _home_of_place(top, _place(module))


def _place(module: ModuleType) -> str | None:
    file = getattr(module, "__file__", None)
    if file is not None:
        return str(file)
    return next(iter(getattr(module, "__path__", ())), None)  # a namespace package


@cache
def _home_of_place(top: str, place: str | None) -> str | None:
    if place is None:
        return None
    path = Path(place)
    if _INSTALLED.intersection(path.parts):
        return f"{top} {_version(top)}"
    if any(path.resolve().is_relative_to(folder) for folder in _STANDARD):
        return _python()
    return None


def _python() -> str:
    return f"python {sys.version_info.major}.{sys.version_info.minor}"


@cache
def _version(top: str) -> str:
    try:
        return metadata.version(top)
    except metadata.PackageNotFoundError:
        found = metadata.packages_distributions().get(top, [])
    return ", ".join(f"{name} {metadata.version(name)}" for name in sorted(set(found))) or "of no known version"
