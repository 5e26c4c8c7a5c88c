"""Values as JSON: what may pass between tasks, and how it is kept and compared.

Two forms of one encoding. The *stored* form gives a value back with the type it went in with: a tuple stays a tuple,
a date a date, an int key an int. The *identity* form is what hashes are made of: there a list and a tuple of equal
items are equal, as are two dicts of different order.
"""

from __future__ import annotations

import datetime as dt
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs

from pipedag_airflow.core.containers import Blob, RawSql, Stored, Table
from pipedag_airflow.core.stage import Stage
from pipedag_airflow.errors import CacheError, UnsupportedValueError

__all__ = ["Decoder", "deep_map", "dump_identity", "dump_stored"]

_TAG = "$"
_ADMITTED = (
    "dict, list, tuple, int, float, str, bool, None, date, datetime, time, timedelta, Path, "
    "Table, RawSql, Blob and Stage"
)
Encode = Callable[[Any, str], Any]


def dump_stored(value: Any, where: str = "result") -> str:
    """Return the JSON text from which :class:`Decoder` restores the value.

    Args:
        value: Any admitted value; containers must be descriptors, that is, stored already.
        where: What to call the value in an error message.

    Raises:
        UnsupportedValueError: if the value holds something that cannot be stored; the message has the path to it.
    """
    return json.dumps(_Encoder(_stored_container, lists_only=False).encode(value, where), separators=(",", ":"))


def dump_identity(value: Any, where: str = "argument", special: Encode | None = None) -> str:
    """Return the JSON text that stands for the value in a hash.

    Args:
        value: Any admitted value.
        where: What to call the value in an error message.
        special: Encodes objects that only the caller knows (references to tasks, say); it returns ``NotImplemented``
            for all others.

    Raises:
        UnsupportedValueError: as for :func:`dump_stored`.
    """
    encoder = _Encoder(_identity_container, lists_only=True, special=special)
    return json.dumps(encoder.encode(value, where), separators=(",", ":"), sort_keys=True)


def deep_map(value: Any, function: Callable[[Any], Any]) -> Any:
    """Apply a function to every leaf of nested dicts, lists and tuples and return the same shape.

    Only the exact types dict, list and tuple are entered; everything else is a leaf.
    """
    if type(value) is list:
        return [deep_map(item, function) for item in value]
    if type(value) is tuple:
        return tuple(deep_map(item, function) for item in value)
    if type(value) is dict:
        return {deep_map(key, function): deep_map(item, function) for key, item in value.items()}
    return function(value)


@attrs.frozen
class _Encoder:
    container: Callable[[Stored], dict[str, Any]]
    lists_only: bool
    special: Encode | None = None

    def encode(self, value: Any, where: str) -> Any:
        kind = type(value)
        if value is None or kind in (bool, int, str):
            return value
        if kind is float:
            return self._float(value, where)
        if kind is list or (kind is tuple and self.lists_only):
            return [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]
        if kind is tuple:
            return {_TAG: "tuple", "v": [self.encode(item, f"{where}[{i}]") for i, item in enumerate(value)]}
        if kind is dict:
            return self._dict(value, where)
        return self._object(value, where)

    def _float(self, value: float, where: str) -> float:
        if not math.isfinite(value):
            raise UnsupportedValueError(f"{where} is {value}: only finite numbers can be stored; use None instead.")
        return value

    def _dict(self, value: dict[Any, Any], where: str) -> Any:
        items = [(key, self.encode(item, f"{where}[{key!r}]")) for key, item in value.items()]
        if all(type(key) is str for key, _ in items) and _TAG not in value:
            return dict(items)
        pairs = [[self.encode(key, f"key {key!r} of {where}"), item] for key, item in items]
        if self.lists_only:
            pairs.sort(key=lambda pair: json.dumps(pair[0], sort_keys=True))
        return {_TAG: "dict", "v": pairs}

    def _object(self, value: Any, where: str) -> Any:
        if isinstance(value, Stored):
            if value.cache_key is None:
                raise UnsupportedValueError(
                    f"{where} is {value!r}, which is not stored: return it from a task and pass that task instead."
                )
            return self.container(value)
        if isinstance(value, Stage):
            return {_TAG: "stage", "v": value.name}
        if type(value) is type(Path()):  # not a subclass, whose path may be one of another file system
            return {_TAG: "path", "v": str(value)}
        for tag, (kind, dump, _) in _TIMES.items():
            if type(value) is kind:
                return {_TAG: tag, "v": dump(value)}
        if self.special is not None:
            encoded = self.special(value, where)
            if encoded is not NotImplemented:
                return encoded
        raise UnsupportedValueError(_refusal(value, where))


def _refusal(value: Any, where: str) -> str:
    kind = type(value)
    name = kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    hint = "Wrap it in Table(...) or Blob(...), or convert it."
    if isinstance(value, (set, frozenset)):
        hint = "A set has no order: use the list sorted(...) instead."
    elif kind.__module__.split(".")[0] == "numpy" and hasattr(value, "item"):
        hint = "Call .item() to get the plain Python number."
    return f"{where} is of type {name}, which cannot pass between tasks. Admitted are: {_ADMITTED}. {hint}"


_TIMES: Mapping[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]] = {
    "datetime": (dt.datetime, dt.datetime.isoformat, dt.datetime.fromisoformat),
    "date": (dt.date, dt.date.isoformat, dt.date.fromisoformat),
    "time": (dt.time, dt.time.isoformat, dt.time.fromisoformat),
    "timedelta": (
        dt.timedelta,
        lambda delta: [delta.days, delta.seconds, delta.microseconds],
        lambda parts: dt.timedelta(days=parts[0], seconds=parts[1], microseconds=parts[2]),
    ),
}


_CONTAINERS: Mapping[str, type[Stored]] = {"table": Table, "rawsql": RawSql, "blob": Blob}


def _container_tag(value: Stored) -> str:
    """A class of the user's own counts as the container that it was made of."""
    return next(tag for tag, kind in _CONTAINERS.items() if isinstance(value, kind))


def _identity_container(value: Stored) -> dict[str, Any]:
    """Containers enter a hash by identity; a table's name does not count, so a pure rename changes nothing."""
    encoded = {_TAG: _container_tag(value), "stage": value.stage, "key": value.cache_key}
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
        encoded |= {"primary_key": value.primary_key, "indexes": value.indexes}
    if isinstance(value, RawSql):
        encoded |= {"tables": value.table_names}
    return encoded


@attrs.frozen
class Decoder:
    """Restores values from their stored form.

    Args:
        generation: Number of the generation whose row is decoded.
        stages: The flow's stages by name, for values that are a :class:`Stage`.
    """

    generation: int
    stages: Mapping[str, Stage]

    def load(self, text: str) -> Any:
        """Return the value that :func:`dump_stored` wrote.

        Raises:
            CacheError: if the value names a stage that the flow no longer has.
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
        if tag in _TIMES:
            return _TIMES[tag][2](node["v"])
        return self._tagged(tag, node)

    def _tagged(self, tag: str, node: dict[str, Any]) -> Any:
        if tag == "tuple":
            return tuple(self._decode(item) for item in node["v"])
        if tag == "dict":
            return {self._decode(key): self._decode(item) for key, item in node["v"]}
        if tag == "path":
            return Path(node["v"])
        if tag == "stage":
            return self._stage(node["v"])
        return self._container(tag, node)

    def _stage(self, name: str) -> Stage:
        if name not in self.stages:
            raise CacheError(f"A stored value refers to the stage {name!r}, which the flow no longer has.")
        return self.stages[name]

    def _container(self, tag: str, node: dict[str, Any]) -> Stored:
        container: Stored
        if tag == "table":
            container = Table(name=node["name"], primary_key=node["primary_key"], indexes=node["indexes"])
        elif tag == "rawsql":
            container = RawSql(name=node["name"])
            container.table_names = list(node["tables"])
        else:
            container = Blob(name=node["name"])
        container.locate(node["stage"], self.generation, node["key"])
        return container
