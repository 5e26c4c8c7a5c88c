"""The fingerprint of all code that is reachable from a function."""

from __future__ import annotations

import builtins
import importlib
import inspect
import itertools
import re
import sys
import types
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.cache.auto_version.bytecode import ImportUse, NameUse, Reading, read_code
from pipedag_airflow.cache.auto_version.hiding import HIDES, hidden_in
from pipedag_airflow.cache.auto_version.homes import Homes
from pipedag_airflow.cache.auto_version.values import Describer, refusal
from pipedag_airflow.core.fingerprint import fingerprint
from pipedag_airflow.core.values import classes_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

__all__ = ["CodeVersion", "code_version", "what_changed"]

_MISSING = object()
_NO_ARGUMENTS: Mapping[str, Any] = types.MappingProxyType({})
#: Names that say where a module was loaded from, or describe it: no part of what a function does.
_MODULE_NAMES = frozenset(
    {"__name__", "__file__", "__doc__", "__spec__", "__package__", "__path__", "__loader__", "__builtins__"}
)
_EXTENDED = {
    "pandas": ("DataFrame", "Series", "Index"),
    "polars": ("DataFrame", "LazyFrame", "Series", "Expr"),
}
#: Where polars and pandas keep the class of a registered namespace or accessor; polars calls its name an accessor, too.
_REGISTERED = ("_ns", "_accessor")
_WORD = re.compile(r"[^\W\d]\w*")
_PART_LENGTH = 10


@attrs.frozen
class CodeVersion:
    """The version of a task's code.

    Args:
        version: What stands for all of the code.
        parts: A hash of each function, class and global value, by a name for people.
        reached: The functions and classes themselves.
    """

    version: str
    parts: Mapping[str, str]
    reached: tuple[Any, ...]


def code_version(
    function: Any, input_type: Any = None, where: str = "The task", arguments: Mapping[str, Any] = _NO_ARGUMENTS
) -> CodeVersion:
    """Return the version of a function's code and of all code that it reaches.

    Args:
        function: The function.
        input_type: The type in which the function gets its tables; its package counts as used.
        where: The task for messages, such as ``Task 'clean.flights'``.
        arguments: What the function is called with, by parameter. The code does not say which classes of enums and
            dataclasses it gets, and it may call their methods.

    Raises:
        AutoVersionError: if something that it uses cannot be followed.
    """
    walk = _Walk(where, Homes.around(function))
    root = [walk.describe(function, "function"), walk.describe(input_type, "input_type")]
    for name, argument in arguments.items():
        root += [walk.describe(kind, "function", f"argument {name}") for kind in classes_in(argument)]
    walk.finish()
    texts = {label: part.text for label, part in walk.parts.items()}
    version = fingerprint("\n".join(root), *(text for item in sorted(texts.items()) for text in item))
    parts = {part.shown: fingerprint(part.text)[:_PART_LENGTH] for part in walk.parts.values()}
    return CodeVersion(f"auto_{version}", parts, tuple(walk.reached))


def what_changed(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    """Say which parts of the code differ."""
    edited = [name for name in now if name in before and before[name] != now[name]]
    added = [f"{name} (new)" for name in now if name not in before]
    gone = [f"{name} (gone)" for name in before if name not in now]
    return f"the code of the task changed: {', '.join(edited + added + gone) or 'its packages'}"


def _hidden_behind(value: Any, taken: Iterable[str], anywhere: Iterable[str]) -> str | None:
    """Return what finds code by a text, of what is taken of a value at once.

    A module that is held by another name first, or passed on, may be what any attribute in the function is taken of.
    """
    for name in taken:
        if not isinstance(value, types.ModuleType):
            return None
        hidden = hidden_in(value.__name__, [name])
        if hidden is not None:
            return hidden
        value = getattr(value, name, None)
    return hidden_in(value.__name__, anywhere) if isinstance(value, types.ModuleType) else None


def _hidden_in_import(use: ImportUse, anywhere: Iterable[str]) -> str | None:
    """Return what finds code by a text, of what is imported within a function, or taken of that."""
    if use.names:
        modules = (hidden_in(f"{use.module}.{name}", anywhere) for name in use.names)
        return hidden_in(use.module, use.names) or next(filter(None, modules), None)
    taken = anywhere if use.attributes is None else use.attributes
    # Without "as", import importlib.util gives a name to importlib.
    dotted = itertools.accumulate(use.module.split("."), "{}.{}".format)
    modules = (hidden_in(module, taken) for module in dotted if len(module) >= len(use.bound))
    return next(filter(None, modules), None)


def _frame_kinds() -> list[type]:
    """Return the classes of the loaded frame libraries that users extend by methods and namespaces of their own."""
    return [
        getattr(sys.modules[library], name)
        for library, names in _EXTENDED.items()
        if library in sys.modules
        for name in names
    ]


class _Walk(Describer):
    """Follows names from functions to what they mean."""

    def __init__(self, where: str, homes: Homes) -> None:
        super().__init__(where, homes)
        #: The namespaces of functions that may use names which only stand in strings.
        self._looking: list[tuple[dict[str, Any], str]] = []

    def finish(self) -> None:
        """Describe what is waiting, and then what is named in strings only, until nothing new is found."""
        while True:
            self.drain()
            before = len(self.parts)
            words = {word for text in self.strings for word in _WORD.findall(text)}
            for namespace, user in list(self._looking):
                for name in sorted(words & namespace.keys() - _MODULE_NAMES):
                    self._named(NameUse(name, ()), namespace, user)
            if len(self.parts) == before and not self.waiting:
                return

    def code_text(self, code: types.CodeType, namespace: dict[str, Any], user: str) -> str:
        """Return the text of a code object with what its global names mean."""
        reading = read_code(code)
        self._refuse_changes(reading, user)
        for constant in reading.constants:
            self.note_strings(constant)
        if reading.looks_at_frames:
            self._looking.append((namespace, user))
        lines = [reading.text]
        for use in reading.uses:
            self._refuse_hidden(use, reading, namespace, user)
            lines.append(
                self._named(use, namespace, user) if isinstance(use, NameUse) else self._import(use, namespace, user)
            )
        lines += self._extensions(reading, user)
        return "\n".join(lines)

    def _extensions(self, reading: Reading, user: str) -> list[str]:
        """Describe what the user added to frames under the names of attributes that are taken of anything."""
        lines = []
        for kind in _frame_kinds():
            for name in reading.attributes:
                added = inspect.getattr_static(kind, name, None)
                # A registered namespace is a descriptor of the library around the user's class.
                added = next((getattr(added, key) for key in _REGISTERED if hasattr(added, key)), added)
                if isinstance(added, (types.FunctionType, type)) and self.homes.of_name(added.__module__) is None:
                    lines.append(f"{kind.__name__}.{name} = {self.describe(added, user, name)}")
        return lines

    def _refuse_changes(self, reading: Reading, user: str) -> None:
        if reading.changed_globals:
            raise refusal(self.where, user, reading.changed_globals[0], "a global name that the code assigns")

    def _refuse_hidden(self, use: NameUse | ImportUse, reading: Reading, namespace: dict[str, Any], user: str) -> None:
        """Refuse what finds code by a text."""
        if isinstance(use, ImportUse):
            hidden = _hidden_in_import(use, reading.attributes)
        else:
            hidden = _hidden_behind(namespace.get(use.name), use.attributes, reading.attributes)
        if hidden is not None:
            raise refusal(self.where, user, hidden, HIDES)

    def _named(self, use: NameUse, namespace: dict[str, Any], user: str) -> str:
        if use.name in _MODULE_NAMES:
            return use.name
        if use.name not in namespace:
            return self._builtin(use.name, user)
        return self._follow(namespace[use.name], use.name, use.attributes, user)

    def _builtin(self, name: str, user: str) -> str:
        if hidden_in("builtins", [name]):
            raise refusal(self.where, user, name, HIDES)
        return f"{name} builtin" if hasattr(builtins, name) else f"{name} undefined"

    def _follow(self, value: Any, name: str, attributes: tuple[str, ...], user: str) -> str:
        """Go from a module of the user's own to what is taken of it; describe what it is."""
        path = name
        for attribute in attributes:
            if not isinstance(value, types.ModuleType) or self.homes.of_module(value) is not None:
                break
            if attribute in _MODULE_NAMES:
                return f"{path}.{attribute}"
            path = f"{path}.{attribute}"
            value = getattr(value, attribute, _MISSING)
            if value is _MISSING:
                return f"{path} undefined"
        return f"{path} = {self.describe_global(value, path, user)}"

    def _import(self, use: ImportUse, namespace: dict[str, Any], user: str) -> str:
        shown = "." * use.level + use.module
        package = namespace.get("__package__") or str(namespace.get("__name__", "")).rpartition(".")[0]
        try:
            module = importlib.import_module(shown, package or None)
        except ImportError:
            return f"import {shown} missing"
        home = self.homes.of_module(module)
        if home is not None:
            return f"import {shown} {use.names} {home}"
        if not use.names:
            raise refusal(
                self.where, user, shown, "a module of your own that is imported within the function: import it at the "
                "top of the module"
            )  # fmt: skip
        return "\n".join(self._follow_import(module, shown, name, user) for name in use.names)

    def _follow_import(self, module: types.ModuleType, shown: str, name: str, user: str) -> str:
        if not hasattr(module, name):
            try:
                importlib.import_module(f"{module.__name__}.{name}")
            except ImportError:
                return f"{shown}.{name} undefined"
        return f"{shown}.{name} = {self.describe_global(getattr(module, name), f'{shown}.{name}', user)}"
