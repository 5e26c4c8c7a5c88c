"""Materialization details: under a label, how the database is to store tables beyond what is in them."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import attrs

from pipedag_airflow.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["MaterializationDetails"]

log = logging.getLogger(__name__)

#: The label whose attributes hold for all others too.
_ANY = "__any__"


@attrs.frozen
class MaterializationDetails:
    """The labels of a store.

    Args:
        known: The attributes that the store understands, with their types or, of a choice, the possible values.
        labels: Label to attributes.
        default: Label of tables for which neither task nor stage names one.
        strict: Whether what cannot be used is an error, else a line in the log.
        store: Name of the store's class, for messages.

    Raises:
        ConfigError: if details are strict, and a label has an attribute that the store does not know or a value of
            another type, or the default label is not there.
    """

    known: Mapping[str, type | tuple[str, ...]]
    labels: Mapping[str, Mapping[str, Any]]
    default: str | None
    strict: bool
    store: str

    def __attrs_post_init__(self) -> None:
        """Check all labels, so that a mistake is found before the first table is made."""
        for label, attributes in self.labels.items():
            for name, value in attributes.items():
                problem = self._problem(name, value)
                if problem:
                    self._refuse(f"materialization_details.{label}.{name}: {problem}")
        if self.default is not None and self.default not in self.labels:
            self._refuse(f"default_materialization_details is {self.default!r}, {self._unknown_label}")

    def of(self, label: str | None, where: str) -> dict[str, Any]:
        """Return the attributes under a label.

        Args:
            label: The label of the table or its stage; None for the default.
            where: What has the label, for messages.

        Raises:
            ConfigError: if details are strict and there is no such label.
        """
        wanted = label if label is not None else self.default
        if label is not None and label not in self.labels:
            self._refuse(f"{where} has the materialization details {label!r}, {self._unknown_label}")
        attributes = {**self.labels.get(_ANY, {}), **self.labels.get(wanted or _ANY, {})}
        return {name: value for name, value in attributes.items() if self._problem(name, value) is None}

    @property
    def _unknown_label(self) -> str:
        if not self.known:
            return f"but a {self.store} has none"
        return f"but table_store.args.materialization_details has only: {', '.join(sorted(self.labels)) or 'nothing'}"

    def _problem(self, name: str, value: Any) -> str | None:
        if name not in self.known:
            known = ", ".join(sorted(self.known)) or "none"
            return f"a {self.store} has no such attribute; it has: {known}"
        kind = self.known[name]
        if isinstance(kind, tuple):
            fits = all(given in kind for given in (value if isinstance(value, list) else [value]))
            return None if fits else f"is one of {', '.join(map(repr, kind))}, or a list of them, not {value!r}"
        return None if isinstance(value, kind) else f"is of type {kind.__name__}, not {value!r}"

    def _refuse(self, message: str) -> None:
        if self.strict:
            raise ConfigError(f"{message}. Correct it, or set strict_materialization_details=False to ignore it.")
        log.error(message)
