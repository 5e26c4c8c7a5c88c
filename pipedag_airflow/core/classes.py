"""Classes of values: how members of enums and instances of dataclasses are taken apart, and get their class back.

A stored value names its class, but a name that was stored never makes Python import anything: the class is looked up
among those that the flow's own code has defined or imported already.
"""

from __future__ import annotations

import dataclasses
import enum
import inspect
import sys
from typing import TYPE_CHECKING, Any, TypeVar

import attrs

from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

__all__ = ["Classes", "field_values", "is_dataclass_instance", "new_instance", "with_fields"]

T = TypeVar("T")


def is_dataclass_instance(value: Any) -> bool:
    """Say whether a value consists of the fields of a dataclass.

    Classes that make their instances in a way of their own do not count: enums, exceptions and lists are more than
    their fields.
    """
    kind: Any = type(value)
    return dataclasses.is_dataclass(kind) and kind.__new__ is object.__new__


def field_values(value: Any, where: str = "A dataclass") -> dict[str, Any]:
    """Return the fields of an instance of a dataclass by name.

    Raises:
        UnsupportedValueError: if a field was never set.
    """
    found = {}
    for field in dataclasses.fields(value):
        if not hasattr(value, field.name):
            raise UnsupportedValueError(
                f"{where} ({type(value).__qualname__}) has no value in its field {field.name!r}: set it, to None say."
            )
        found[field.name] = getattr(value, field.name)
    return found


def new_instance(kind: type[T], fields: Mapping[str, Any]) -> T:
    """Return an instance of a dataclass with the given fields.

    Neither ``__init__`` nor ``__post_init__`` runs: what is given was theirs already, and might change once more.
    """
    instance = object.__new__(kind)
    for name, field in fields.items():
        object.__setattr__(instance, name, field)  # a frozen one, too
    return instance


def with_fields(value: T, function: Callable[[str, Any], Any]) -> T:
    """Return a new instance of a dataclass with a function applied to the name and value of each field.

    It is another one even if no field changes, as whoever gets it may set its fields. What is no field, and was set in
    ``__post_init__`` say, is taken over.
    """
    fields = {name: function(name, field) for name, field in field_values(value).items()}
    return new_instance(type(value), {**getattr(value, "__dict__", {}), **fields})


@attrs.frozen(eq=False)
class Classes:
    """The classes that stored values may have.

    A class of the flow's own modules is known by its qualified name alone: Airflow, an interpreter that runs the file,
    and one that imports it give the module three different names. A class of any other module is known by both names.

    Args:
        namespaces: The global names of the modules that hold the flow's tasks, and its block.
    """

    namespaces: tuple[Mapping[str, Any], ...] = ()

    @classmethod
    def of_functions(cls, functions: Iterable[Callable[..., Any]], *more: Mapping[str, Any]) -> Classes:
        """Return the classes known to the modules of the given functions, and to more modules."""
        spaces = [getattr(inspect.unwrap(function), "__globals__", {}) for function in functions]
        return cls(tuple({id(space): space for space in (*spaces, *more)}.values()))

    def name(self, kind: type) -> tuple[str, str] | None:
        """Return the module ("" for the flow's own) and the qualified name by which :meth:`find` finds a class.

        None if it does not find it, as a class that was defined within a function.
        """
        names = (("", kind.__qualname__), (kind.__module__, kind.__qualname__))
        return next((name for name in names if self.find(*name) is kind), None)

    def module(self, kind: type) -> str:
        """Return the module that tells a class from others of its name: "" for the flow's own, also within a function.

        Of the flow's own modules two may have a class of one name: then each is known by its module.
        """
        name = self.name(kind)
        if name is not None:
            return name[0]
        return "" if any(space.get("__name__") == kind.__module__ for space in self.namespaces) else kind.__module__

    def find(self, module: str, qualname: str) -> type | None:
        """Return the enum or dataclass of that name, None if there is none, or more than one.

        Nothing is imported, and nothing is called, not even a module's ``__getattr__``.
        """
        if module:
            return _attribute(getattr(sys.modules.get(module), "__dict__", {}), qualname)
        found = {
            kind
            for space in self.namespaces
            if (kind := _attribute(space, qualname)) is not None and kind.__module__ == space.get("__name__")
        }
        return found.pop() if len(found) == 1 else None


def _attribute(namespace: Mapping[str, Any], qualname: str) -> type | None:
    found: Any = None
    for part in qualname.split("."):
        found = namespace.get(part)
        if not isinstance(found, type):
            return None
        namespace = vars(found)
    return found if issubclass(found, enum.Enum) or dataclasses.is_dataclass(found) else None
