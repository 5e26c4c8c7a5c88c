"""Table stores."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipedag_airflow.backend.table.sql.store import SQLTableStore

__all__ = ["SQLTableStore"]


def __getattr__(name: str) -> Any:
    # Lazy, so that naming the package does not load SQLAlchemy.
    if name == "SQLTableStore":
        return import_module(f"{__name__}.sql.store").SQLTableStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
