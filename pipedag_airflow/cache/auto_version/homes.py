"""Which code is the user's own, and which is installed: the latter counts by its version, not by its content."""

from __future__ import annotations

import sys
import sysconfig
import types
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import attrs

__all__ = ["Homes"]

_OURS = __name__.partition(".")[0]
_STANDARD = tuple(Path(sysconfig.get_path(key)).resolve() for key in ("stdlib", "platstdlib"))
_INSTALLED = frozenset({"site-packages", "dist-packages"})
#: The flag of a class that was made by a class statement, or by a call of type.
_MADE_AT_RUN_TIME = 1 << 9


@attrs.frozen
class Homes:
    """Tells where code belongs: to an installed package of some version, or to the user.

    Args:
        own: The package of the task's own function: it is the user's code, wherever it is installed. A release of it
            need not have a version of its own. Packages of others may share a namespace with it.
    """

    own: str | None = None

    @classmethod
    def around(cls, function: Any) -> Homes:
        """Return the homes as seen from the function of a task."""
        # A function that is used as a task, but stands in its module as it is, may be a library's: pandas.concat.
        library = isinstance(function, types.FunctionType) and cls().of_named(function) is not None
        return cls(None if library else _package(str(getattr(function, "__module__", ""))))

    def of_module(self, module: types.ModuleType) -> str | None:
        """Return the package and version that a module belongs to; None if it is the user's own."""
        top = module.__name__.partition(".")[0]
        if top == _OURS:
            # A release of ours must not run every task anew: what it means for stored results is told by the metadata.
            return _OURS
        places = _places(module)
        if top in sys.builtin_module_names or (not places and top in sys.stdlib_module_names):
            return _python()
        homes = {_home_of_place(top, place) for place in places}
        # A namespace package is the user's own where a part of it is.
        home = None if None in homes else next(iter(homes), None)
        own = self.own is not None and f"{module.__name__}.".startswith(f"{self.own}.")
        return None if own and home != _python() else home

    def of_name(self, name: str | None) -> str | None:
        """Return the package and version that a loaded module belongs to; None if it is the user's own."""
        module = sys.modules.get(name) if name else None
        return None if module is None else self.of_module(module)

    def of_code(self, function: types.FunctionType) -> str | None:
        """Return the package in whose module the function's code stands; None if it is the user's own."""
        name = function.__globals__.get("__name__")
        module = sys.modules.get(name) if name else None
        # A function that was sent to this process may stand in the copy of a module that is called as another one here.
        return self.of_module(module) if module is not None and vars(module) is function.__globals__ else None

    def of_named(self, value: types.FunctionType | type) -> str | None:
        """Return the package that a function or class is a named part of; None for what was made at run time."""
        home = self.of_name(value.__module__)
        if home is None:
            return None
        if isinstance(value, type) and not value.__flags__ & _MADE_AT_RUN_TIME:
            return home
        found: Any = sys.modules[value.__module__]
        for name in value.__qualname__.split("."):
            found = getattr(found, name, None)
        return home if found is value or getattr(found, "__func__", None) is value else None


def _package(module: str) -> str:
    """Return the outermost package of a module that is not only a namespace; else the innermost one, or the module."""
    parts = module.split(".")[:-1]
    packages = [".".join(parts[: length + 1]) for length in range(len(parts))]
    regular = (name for name in packages if getattr(sys.modules.get(name), "__file__", None) is not None)
    return next(regular, packages[-1] if packages else module)


def _places(module: types.ModuleType) -> tuple[str, ...]:
    file = getattr(module, "__file__", None)
    return tuple(getattr(module, "__path__", ())) if file is None else (str(file),)  # a namespace package has several


@cache
def _home_of_place(top: str, place: str) -> str | None:
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
