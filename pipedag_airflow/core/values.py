"""Values as JSON: what may pass between tasks, and how it is kept and compared.

Two forms of one encoding. The *stored* form gives a value back with the type it went in with: a tuple stays a tuple,
a date a date, an int key an int. The *identity* form is what hashes are made of: there a list and a tuple of equal
items are equal, as are two dicts of different order.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from pipedag_airflow.core.classes import Classes, field_values, is_dataclass_instance, new_instance, with_fields
from pipedag_airflow.core.containers import Blob, ExternalTableReference, RawSql, Stored, Table
from pipedag_airflow.core.paths import at_key, circles_named, shown_key
from pipedag_airflow.core.stage import Stage
from pipedag_airflow.core.times import decode_time, encode_time, is_time_tag
from pipedag_airflow.errors import CacheError, NotFiniteError, UnsupportedValueError

__all__ = ["ArgumentOnly", "Decoder", "classes_in", "deep_map", "dump_identity", "dump_stored"]

_TAG = "$"
_ADMITTED = (
    "dict, list, tuple, int, float, str, bool, None, date, datetime, time, timedelta, Path, "
    "members of enums, instances of dataclasses, Table, RawSql, Blob and Stage"
)
#: Larger ints are written as hexadecimals: Python may refuse to write them as decimals, which takes it long.
_DECIMAL_BITS = 2048
_NO_OWN_CLASSES = Classes()
_PATH = type(Path())
Encode = Callable[[Any, str], Any]


class ArgumentOnly(ABC):
    """Something that may be an argument of a task, but not its result, because it cannot be stored."""

    __slots__ = ()

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """Return admitted values that stand for the object in hashes and in the metadata; no secrets."""


def dump_stored(value: Any, where: str = "result", classes: Classes = _NO_OWN_CLASSES) -> str:
    """Return the JSON text from which :class:`Decoder` restores the value.

    Args:
        value: Any admitted value; containers must be descriptors, that is, stored already.
        where: What to call the value in an error message.
        classes: Where the reader looks for the classes of enums and dataclasses.

    Raises:
        UnsupportedValueError: if the value holds something that cannot be stored; the message has the path to it.
    """
    encoder = _Encoder(_stored_container, is_identity=False, classes=classes)
    with circles_named(value, where):
        return json.dumps(encoder.encode(value, where), separators=(",", ":"))


def dump_identity(
    value: Any, where: str = "argument", special: Encode | None = None, classes: Classes = _NO_OWN_CLASSES
) -> str:
    """Return the JSON text that stands for the value in a hash.

    Args:
        value: Any admitted value.
        where: What to call the value in an error message.
        special: Encodes objects that only the caller knows (references to tasks, say); it returns ``NotImplemented``
            for all others.
        classes: The flow's own classes, whose modules have another name on Airflow than in a local run.

    Raises:
        UnsupportedValueError: as for :func:`dump_stored`.
    """
    encoder = _Encoder(_identity_container, is_identity=True, special=special, classes=classes)
    with circles_named(value, where):
        return json.dumps(encoder.encode(value, where), separators=(",", ":"), sort_keys=True)


def deep_map(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to every leaf of nested dicts, lists, tuples and dataclasses and return the same shape.

    Of dict, list and tuple only the exact types are entered; everything else is a leaf, so are containers.
    """
    if type(value) is list:
        return [deep_map(item, function) for item in value]
    if type(value) is tuple:
        return tuple(deep_map(item, function) for item in value)
    if type(value) is dict:
        return {deep_map(key, function): deep_map(item, function) for key, item in value.items()}
    if is_dataclass_instance(value) and not isinstance(value, Stored):
        return with_fields(value, lambda _, field: deep_map(field, function))
    return function(value)


def classes_in(value: Any) -> tuple[type, ...]:
    """Return the classes of the enums and dataclasses in nested dicts, lists, tuples and dataclasses, each once."""
    found: dict[type, None] = {}
    parts = [value]
    while parts:
        part = parts.pop()
        if type(part) in (list, tuple):
            parts.extend(reversed(part))
        elif type(part) is dict:
            parts.extend(reversed([each for item in part.items() for each in item]))
        elif isinstance(part, enum.Enum):
            found[type(part)] = None
        elif is_dataclass_instance(part) and not isinstance(part, Stored):
            found[type(part)] = None
            parts.extend(reversed(field_values(part).values()))
    return tuple(found)


@attrs.frozen
class _Encoder:
    container: Callable[[Stored], dict[str, Any]]
    is_identity: bool
    classes: Classes
    special: Encode | None = None

    def encode(self, value: Any, where: str) -> Any:
        kind = type(value)
        if value is None or kind in (bool, str):
            return value
        if kind is int:
            return value if value.bit_length() <= _DECIMAL_BITS else {_TAG: "int", "v": hex(value)}
        if kind is float:
            return self._float(value, where)
        if kind is list or (kind is tuple and self.is_identity):
            return [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
        if kind is tuple:
            return {_TAG: "tuple", "v": [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]}
        if kind is dict:
            return self._dict(value, where)
        return self._object(value, where)

    def _float(self, value: float, where: str) -> float:
        if not math.isfinite(value):
            raise NotFiniteError(f"{where} is {value}: only finite numbers can be stored; use None instead.")
        return value

    def _dict(self, value: dict[Any, Any], where: str) -> Any:
        items = [(key, self.encode(item, at_key(where, key))) for key, item in value.items()]
        if all(type(key) is str for key, _ in items) and _TAG not in value:
            return dict(items)
        pairs = [[self.encode(key, f"key {shown_key(key)} of {where}"), item] for key, item in items]
        if self.is_identity:
            pairs.sort(key=lambda pair: json.dumps(pair[0], sort_keys=True))
        return {_TAG: "dict", "v": pairs}

    def _object(self, value: Any, where: str) -> Any:
        # First, because most objects among the arguments of a large flow are references to tasks.
        if self.special is not None:
            encoded = self.special(value, where)
            if encoded is not NotImplemented:
                return encoded
        if isinstance(value, (Stored, ExternalTableReference)):
            return self._stored(value, where)
        if isinstance(value, Stage):
            return {_TAG: "stage", "v": value.name}
        if type(value) is _PATH:  # not a subclass, whose path may be one of another file system
            return {_TAG: "path", "v": str(value)}
        time = encode_time(value, where)
        if time is not None:
            return {_TAG: time[0], **time[1]}
        if isinstance(value, enum.Enum) or is_dataclass_instance(value):
            return self._of_class(value, where)
        if isinstance(value, ArgumentOnly):
            return self._argument_only(value, where)
        raise UnsupportedValueError(_refusal(value, where))

    def _stored(self, value: Stored | ExternalTableReference, where: str) -> dict[str, Any]:
        if isinstance(value, ExternalTableReference):
            value = Table(value)
        if value.cache_key is None and not (isinstance(value, Table) and value.external):
            raise UnsupportedValueError(
                f"{where} is {value!r}, which is not stored: return it from a task and pass that task instead."
            )
        return self.container(value)

    def _argument_only(self, value: ArgumentOnly, where: str) -> dict[str, Any]:
        name = type(value).__qualname__
        if not self.is_identity:
            raise UnsupportedValueError(
                f"{where} is a {name}, which may be an argument of a task, but not its result: return what the next "
                f"task needs of it, or give the {name} to that task, too."
            )
        return {_TAG: name, "v": self.encode(value.identity(), where)}

    def _of_class(self, value: Any, where: str) -> dict[str, Any]:
        name = self._class(type(value), where)
        if isinstance(value, enum.Flag):  # a combination of flags has no name
            return {_TAG: "enum", **name, "v": value.value}
        if isinstance(value, enum.Enum):
            return {_TAG: "enum", **name, "v": self._member(value, where)}
        fields = field_values(value, where).items()
        return {_TAG: "dataclass", **name, "v": {key: self.encode(item, f"{where}.{key}") for key, item in fields}}

    def _member(self, member: enum.Enum, where: str) -> Any:
        """Return the name of a member; its value is part of its identity, as far as it may pass between tasks."""
        if not self.is_identity:
            return member.name
        try:
            return [member.name, self.encode(member.value, where)]
        except UnsupportedValueError:  # a function or a type, say
            return [member.name]

    def _class(self, kind: type, where: str) -> dict[str, str]:
        if self.is_identity:
            return {"module": self.classes.module(kind), "class": kind.__qualname__}
        name = self.classes.name(kind)
        if name is None:
            why = (
                "is defined within a function"
                if "<locals>" in kind.__qualname__
                else f"is not what {kind.__qualname__!r} means in the module {kind.__module__!r}"
            )
            raise UnsupportedValueError(
                f"{where} is of the class {kind.__qualname__}, which {why}, so it could not be found again when the "
                "value is read. Define the class under its own name at the top level of a module."
            )
        return {"module": name[0], "class": name[1]}


def _refusal(value: Any, where: str) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    hint = "Wrap it in Table(...) or Blob(...), or convert it."
    if isinstance(value, (set, frozenset)):
        hint = "A set has no order: use the list sorted(...) instead."
    elif kind.__module__.split(".")[0] == "numpy" and hasattr(value, "item"):
        hint = "Call .item() to get the plain Python number."
    elif isinstance(value, (dt.datetime, dt.timedelta)) and kind.__module__.split(".")[0] == "pandas":
        hint = "Call .to_pydatetime() or .to_pytimedelta() to get the plain Python value, and give None for NaT."
    return f"{where} is of type {name}, which cannot pass between tasks. Admitted are: {_ADMITTED}. {hint}"


_CONTAINERS: Mapping[str, type[Stored]] = {"table": Table, "rawsql": RawSql, "blob": Blob}
#: What a descriptor of a table keeps of the arguments that it was made with.
_TABLE_OPTIONS = ("primary_key", "indexes", "nullable", "non_nullable")


def _container_tag(value: Stored) -> str:
    """A class of the user's own counts as the container that it was made of."""
    return next(tag for tag, kind in _CONTAINERS.items() if isinstance(value, kind))


def _identity_container(value: Stored) -> dict[str, Any]:
    """Containers enter a hash by identity; a table's name does not count, so a pure rename changes nothing."""
    encoded = {_TAG: _container_tag(value), "stage": value.stage, "key": value.cache_key}
    if isinstance(value, Table) and value.external:
        return encoded | {"external": [value.external.schema, value.external.name]}
    if isinstance(value, RawSql):
        return encoded | {"tables": value.table_names}
    return encoded


def _stored_container(value: Stored) -> dict[str, Any]:
    """The generation is left out: a row that is carried over is found in its new generation."""
    encoded: dict[str, Any] = {
        _TAG: _container_tag(value),
        "name": value.name,
        "stage": value.stage,
        "key": value.cache_key,
    }
    if isinstance(value, Table):
        encoded |= {name: getattr(value, name) for name in _TABLE_OPTIONS}
        if value.external:
            encoded["external"] = attrs.astuple(value.external)
    if isinstance(value, RawSql):
        encoded |= {"tables": value.table_names}
    return encoded


@attrs.frozen
class Decoder:
    """Restores values from their stored form.

    Args:
        generation: Number of the generation whose row is decoded.
        stages: The flow's stages by name, for values that are a :class:`Stage`.
        classes: Where to look for the classes of enums and dataclasses.
        where: What to call the value in an error message.
    """

    generation: int
    stages: Mapping[str, Stage]
    classes: Classes = _NO_OWN_CLASSES
    where: str = "A stored value"

    def load(self, text: str) -> Any:
        """Return the value that :func:`dump_stored` wrote.

        Raises:
            CacheError: if the value names a stage, class or member that the flow no longer has, or a dataclass has
                other fields than before.
        """
        return self._decode(json.loads(text))

    def _decode(self, node: Any) -> Any:
        if isinstance(node, list):
            return [self._decode(item) for item in node]
        if not isinstance(node, dict):
            return node
        tag = node.get(_TAG)
        if tag is None:
            return {key: self._decode(item) for key, item in node.items()}
        if is_time_tag(tag):
            return decode_time(tag, node, self.where)
        return self._tagged(tag, node)

    def _tagged(self, tag: str, node: dict[str, Any]) -> Any:
        if tag == "int":
            return int(node["v"], 16)
        if tag == "tuple":
            return tuple(self._decode(item) for item in node["v"])
        if tag == "dict":
            return {self._decode(key): self._decode(item) for key, item in node["v"]}
        if tag == "path":
            return Path(node["v"])
        if tag == "stage":
            return self._stage(node["v"])
        if tag == "enum":
            return self._member(self._class(node), node["v"])
        if tag == "dataclass":
            return self._instance(self._class(node), node["v"])
        return self._container(tag, node)

    def _stage(self, name: str) -> Stage:
        if name not in self.stages:
            raise CacheError(f"{self.where} refers to the stage {name!r}, which the flow no longer has.")
        return self.stages[name]

    def _class(self, node: dict[str, Any]) -> type:
        kind = self.classes.find(node["module"], node["class"])
        if kind is None or issubclass(kind, enum.Enum) != (node[_TAG] == "enum"):
            module = f"the module {node['module']!r}" if node["module"] else "the modules of the flow and its tasks"
            raise CacheError(
                f"{self.where} is or holds a value of the {node[_TAG]} {node['class']!r} of {module}, which is not "
                "there. Define it again, or import its module at the top of the flow's; else let the task run again."
            )
        return kind

    def _member(self, kind: type, member: Any) -> Any:
        enumeration: Any = kind
        try:
            return enumeration(member) if issubclass(kind, enum.Flag) else enumeration[member]
        except (KeyError, ValueError):
            raise CacheError(
                f"{self.where} is or holds the member {member!r} of the enum {kind.__qualname__!r}, which is not "
                f"there: its members are {', '.join(enumeration.__members__)}. Let the task run again."
            ) from None

    def _instance(self, kind: type, items: dict[str, Any]) -> Any:
        fields = [field.name for field in dataclasses.fields(kind)]
        if set(fields) != set(items):
            raise CacheError(
                f"{self.where} is or holds an instance of the dataclass {kind.__qualname__!r}, stored with the fields "
                f"{', '.join(items) or '(none)'}, and now it has {', '.join(fields) or '(none)'}. "
                "Let the task run again."
            )
        return new_instance(kind, {name: self._decode(items[name]) for name in fields})

    def _container(self, tag: str, node: dict[str, Any]) -> Stored:
        container: Stored
        if tag == "table" and "external" in node:
            container = Table(ExternalTableReference(*node["external"]))
        elif tag == "table":
            # An older release did not know every option.
            container = Table(name=node["name"], **{name: node[name] for name in _TABLE_OPTIONS if name in node})
        elif tag == "rawsql":
            container = RawSql(name=node["name"])
            container.table_names = list(node["tables"])
        else:
            container = Blob(name=node["name"])
        container.locate(node["stage"], self.generation, node["key"])
        return container
