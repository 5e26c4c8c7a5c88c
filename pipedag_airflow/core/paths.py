"""Paths within values, by which errors name a part: ``result['a'][0].x``."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pipedag_airflow.core.classes import field_values, is_dataclass_instance
from pipedag_airflow.errors import UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["at_key", "circles_named", "shown_key"]


def shown_key(key: Any) -> str:
    """Return a key of a dict as messages write it."""
    try:
        return repr(key)
    except ValueError:  # Python does not write out an int of thousands of digits
        return f"a key of type {type(key).__qualname__}"


def at_key(where: str, key: Any) -> str:
    """Return the path to what stands under a key of a dict."""
    return f"{where}[{shown_key(key)}]"


@contextmanager
def circles_named(value: Any, where: str) -> Iterator[None]:
    """Within the block the value is walked through; it is looked at for a circle only if that does not end.

    Raises:
        UnsupportedValueError: if the value holds itself; the message has the path to where it does.
    """
    try:
        yield
    except RecursionError:
        circle = _circle(value, where, {})
        if circle is None:
            raise
        inner, outer = circle
        raise UnsupportedValueError(
            f"{inner} is {outer} itself: a value that holds itself cannot pass between tasks. Leave the reference out, "
            "or wrap the whole in Blob(...)."
        ) from None


def _circle(value: Any, where: str, within: dict[int, str]) -> tuple[str, str] | None:
    """Return the path to a part that is one of the values around it, and the path to that one."""
    if id(value) in within:
        return where, within[id(value)]
    within[id(value)] = where
    for place, part in _parts(value, where):
        found = _circle(part, place, within)
        if found is not None:
            return found
    del within[id(value)]
    return None


def _parts(value: Any, where: str) -> Iterable[tuple[str, Any]]:
    if type(value) in (list, tuple):
        return ((f"{where}[{index}]", item) for index, item in enumerate(value))
    if type(value) is dict:
        return ((at_key(where, key), item) for key, item in value.items())
    if is_dataclass_instance(value):
        return ((f"{where}.{name}", item) for name, item in field_values(value).items())
    return ()
