"""Values as text: constants by value, functions and classes of the user's own as parts of their own.

Every function, class and global value becomes a :class:`Part`; where another part uses it, its label stands. So cycles
end, and a reason can name the part that changed.
"""

from __future__ import annotations

import copyreg
import datetime as dt
import enum
import functools
import logging
import re
import sys
import types
from abc import ABC, abstractmethod
from pathlib import PurePath
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.cache.auto_version.bytecode import constant_text
from pipedag_airflow.cache.auto_version.hiding import HIDES, hides
from pipedag_airflow.core.fingerprint import fingerprint
from pipedag_airflow.core.stage import Stage
from pipedag_airflow.core.task import UnboundTask
from pipedag_airflow.errors import AutoVersionError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pipedag_airflow.cache.auto_version.homes import Homes

__all__ = ["Describer", "Part", "refusal"]

_ATOMS = (type(None), bool, int, float, complex, str, bytes, type(Ellipsis), type(NotImplemented))
_PRINTED = (dt.date, dt.datetime, dt.time, dt.timedelta, dt.timezone, range, slice)
_SLOTS = (types.MemberDescriptorType, types.GetSetDescriptorType, types.WrapperDescriptorType)
_BUILTIN_FUNCTIONS = (types.BuiltinFunctionType, types.MethodDescriptorType, types.ClassMethodDescriptorType)
#: Members of a class that say where it stands, or only cache something.
_NO_MEMBERS = frozenset(
    {
        "__module__",
        "__doc__",
        "__dict__",
        "__weakref__",
        "__qualname__",
        "__firstlineno__",
        "__slotnames__",
        "_abc_impl",
    }
)
_LONG = 500
#: How polars marks a Python function within a serialised expression or plan.
_POLARS_PYTHON = (b"PLPY", b"Python")
#: Airflow imports the modules of a dags folder under a name that it makes of their path.
_MANGLED = re.compile(r"^unusual_prefix_[0-9a-f]+_")


def refusal(where: str, user: str, name: str, why: str) -> AutoVersionError:
    """Return the error for something that cannot be followed."""
    reason = f"{user} uses {name}, {why}"
    return AutoVersionError(
        f"{where} has AUTO_VERSION, but not all of its code can be followed: {reason}. Pass it as an argument, make it "
        'within the function, or give the task a version of your own: version="1".',
        reason,
    )


@attrs.define
class Part:
    """A function, a class or a global value: under which name people see it, and what it is."""

    shown: str
    text: str = ""


class Describer(ABC):
    """Describes values; functions and classes wait until :meth:`drain`, so that deep calls need no deep stack."""

    def __init__(self, where: str, homes: Homes) -> None:
        self.where = where
        self.homes = homes
        self.parts: dict[str, Part] = {}
        #: All strings that were met: names may stand in them.
        self.strings: set[str] = set()
        self.waiting: list[tuple[str, Any]] = []
        self._labels: dict[int, str] = {}
        #: The functions and classes that became parts. Kept, because ids are unique only among objects that live.
        self.reached: list[Any] = []
        self._within: list[int] = []

    @abstractmethod
    def code_text(self, code: types.CodeType, namespace: dict[str, Any], user: str) -> str:
        """Return the text of a code object with what its global names mean."""

    def drain(self) -> None:
        """Describe the functions and classes that were met."""
        while self.waiting:
            label, value = self.waiting.pop()
            part = self.parts[label]
            text = self._function(value, part.shown) if isinstance(value, types.FunctionType) else None
            part.text = self._class(value, part.shown) if text is None else text

    def describe_global(self, value: Any, name: str, user: str) -> str:
        """Describe the value of a global name; a value that is no function or class is a part under the name."""
        text = self.describe(value, user, name)
        if text.startswith(("part ", "installed ")):
            return text
        label = f"global {name}"
        if label in self.parts and self.parts[label].text != text:  # the same name in another module
            label = self._new_label(label)
        self.parts[label] = Part(label, text)
        return f"part {label}"

    def note_strings(self, value: Any) -> None:
        """Remember the strings in a constant."""
        if isinstance(value, str):
            self.strings.add(value)
        elif isinstance(value, (tuple, frozenset)):
            for item in value:
                self.note_strings(item)

    def describe(self, value: Any, user: str, name: str = "") -> str:
        """Return what a value is, as text.

        Args:
            value: The value.
            user: What uses it, for messages.
            name: How it is called there, for messages.
        """
        if id(value) in self._within:
            return f"cycle {self._within.index(id(value))}"
        self._within.append(id(value))
        try:
            text = self._described(value, user, name or f"a value of type {type(value).__qualname__}")
        finally:
            self._within.pop()
        return text if len(text) <= _LONG else f"#{fingerprint(text)}"

    def _described(self, value: Any, user: str, name: str) -> str:
        if hides(value):
            raise refusal(self.where, user, name, HIDES)
        if type(value) in _ATOMS:
            self.note_strings(value)
            return constant_text(value)
        if type(value) in _PRINTED or isinstance(value, PurePath):
            return f"{type(value).__name__}:{value!r}"
        for described in (self._container, self._code, self._wrapper, self._special):
            text = described(value, user, name)
            if text is not None:
                return text
        return self._instance(value, user, name)

    def _each(self, values: Iterable[Any], user: str, name: str) -> list[str]:
        return [self.describe(value, user, name) for value in values]

    def _container(self, value: Any, user: str, name: str) -> str | None:
        if type(value) in (list, tuple):
            return f"{type(value).__name__}({','.join(self._each(value, user, name))})"
        if type(value) in (set, frozenset):
            return f"{type(value).__name__}({','.join(sorted(self._each(value, user, name)))})"
        if type(value) in (dict, types.MappingProxyType):
            items = (
                f"{self.describe(key, user, name)}:{self.describe(item, user, name)}" for key, item in value.items()
            )
            return f"dict({','.join(items)})"
        return None

    def _code(self, value: Any, user: str, name: str) -> str | None:
        """Describe modules, functions and classes."""
        if isinstance(value, types.ModuleType):
            home = self.homes.of_module(value)
            if home is None:
                raise refusal(self.where, user, name, "a module of your own, other than by a name in it")
            return f"installed {value.__name__} {home}"
        if isinstance(value, types.FunctionType):
            home = self.homes.of_named(value)
            if home is not None:
                return f"installed {value.__module__}.{value.__qualname__} {home}"
            return self._part("function", value)
        if isinstance(value, type):
            home = self.homes.of_named(value)
            if home is not None:
                return f"installed {value.__module__}.{value.__qualname__} {home}"
            return self._part("class", value)
        return None

    def _wrapper(self, value: Any, user: str, name: str) -> str | None:
        """Describe what Python puts around functions."""
        inner: tuple[Any, ...]
        if isinstance(value, types.MethodType):
            inner = (value.__func__, value.__self__)
        elif isinstance(value, (staticmethod, classmethod)):
            inner = (value.__func__,)
        elif isinstance(value, property):
            inner = (value.fget, value.fset, value.fdel)
        elif isinstance(value, functools.cached_property):
            inner = (value.func,)
        elif isinstance(value, functools._lru_cache_wrapper):  # noqa: SLF001  # the type of what lru_cache makes
            inner = (value.__wrapped__,)
        elif isinstance(value, UnboundTask):
            inner = (value.fn,)  # called within a task, it runs its plain function
        else:
            return None
        return f"{type(value).__name__}({','.join(self._each(inner, user, name))})"

    def _special(self, value: Any, user: str, name: str) -> str | None:
        if isinstance(value, (logging.Logger, logging.LoggerAdapter)):
            return "logger"  # what is logged is no result
        if isinstance(value, Stage):
            return f"stage {value.name!r}"
        if isinstance(value, enum.Enum):
            return f"{self.describe(type(value), user, name)}.{value.name}"
        if isinstance(value, _SLOTS):
            return f"slot {value.__name__}"
        if isinstance(value, _BUILTIN_FUNCTIONS):
            owner = getattr(value, "__self__", getattr(value, "__objclass__", None))
            of = f"{value.__module__}" if owner is None else self.describe(owner, user, name)
            return f"builtin {of}.{value.__name__}"
        return None

    def _instance(self, value: Any, user: str, name: str) -> str:
        """Describe an object by its class and its state: by what pickle would keep of it."""
        kind = type(value)
        try:
            reduce = copyreg.dispatch_table.get(kind)
            reduced = value.__reduce_ex__(4) if reduce is None else reduce(value)
        except Exception as error:
            raise refusal(self.where, user, name, f"whose state cannot be seen ({error})") from error
        if isinstance(reduced, str):
            return self._by_name(value, reduced, user, name)
        # The third and the fourth place iterate over the items of lists and dicts.
        state = [list(part) if index in (3, 4) and part is not None else part for index, part in enumerate(reduced)]
        if _hides_python(kind, state):
            raise refusal(self.where, user, name, "an expression with a Python function in it")
        return f"{self.describe(kind, user, name)}({','.join(self._each(state, user, name))})"

    def _by_name(self, value: Any, found: str, user: str, name: str) -> str:
        """Describe an object that is known by its name in an installed module."""
        modules = (getattr(value, "__module__", None), type(value).__module__, type(value).__module__.split(".")[0])
        for module in filter(None, modules):
            home = self.homes.of_name(module)
            if home is not None and getattr(sys.modules[module], found, None) is value:
                return f"{module}.{found} {home}"
        if type(value).__module__ == "typing":
            return repr(value)
        raise refusal(self.where, user, name, f"of the type {type(value).__qualname__}, whose state cannot be seen")

    def _part(self, kind: str, value: Any) -> str:
        label = self._labels.get(id(value))
        if label is None:
            label = self._new_label(f"{kind} {value.__qualname__}")
            self._labels[id(value)] = label
            self.reached.append(value)
            self.parts[label] = Part(self._shown(kind, value, label))
            self.waiting.append((label, value))
        return f"part {label}"

    def _new_label(self, label: str) -> str:
        number, unique = 1, label
        while unique in self.parts:
            number += 1
            unique = f"{label}~{number}"
        return unique

    def _shown(self, kind: str, value: Any, label: str) -> str:
        module = _MANGLED.sub("", str(value.__module__))
        name = value.__qualname__.rpartition("<locals>.")[2]
        shown = f"{kind} {name} in module {module}"
        return f"{shown} ({label.rpartition('~')[2]})" if "~" in label else shown

    def _function(self, function: types.FunctionType, user: str) -> str:
        cells = [
            self.describe(_content(cell), user, f"{name} of its closure")
            for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
        ]
        own = {key: value for key, value in vars(function).items() if key != "__wrapped__"}
        values: tuple[Any, ...] = (function.__defaults__, function.__kwdefaults__, own)
        if self.homes.of_code(function) is not None:
            # A function that an installed package made around one of the user's.
            values = (*values, getattr(function, "__wrapped__", None), function.__annotations__)
            text = f"{function.__qualname__} {self.homes.of_code(function)}"
        else:
            text = self.code_text(function.__code__, function.__globals__, user)
        return "\n".join([text, *cells, *self._each(values, user, "a default or attribute of it")])

    def _class(self, kind: type, user: str) -> str:
        lines = [kind.__name__, *self._each((type(kind), *kind.__bases__), user, "a base of it")]
        if issubclass(kind, enum.Enum):
            members = [(name, member.value) for name, member in kind.__members__.items()]
            lines.append(self.describe(members, user, "a member of it"))
        for name, value in sorted(vars(kind).items()):
            if name not in _NO_MEMBERS:
                lines.append(f"{name}={self.describe(value, user, f'{kind.__name__}.{name}')}")
        return "\n".join(lines)


def _hides_python(kind: type, state: list[Any]) -> bool:
    """Say whether an object of polars holds a Python function, of which the state keeps no more than its place."""
    serialised = (part for part in state if isinstance(part, bytes))
    return kind.__module__.startswith("polars.") and any(mark in part for part in serialised for mark in _POLARS_PYTHON)


def _content(cell: types.CellType) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return NotImplemented
