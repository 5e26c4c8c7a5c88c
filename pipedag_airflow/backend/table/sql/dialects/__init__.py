"""One module per dialect: a small class of capabilities and a few verbs said differently."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipedag_airflow.backend.table.sql.dialects.duckdb import DuckDBTableStore

__all__ = ["DuckDBTableStore"]


def __getattr__(name: str) -> Any:
    if name == "DuckDBTableStore":
        return import_module(f"{__name__}.duckdb").DuckDBTableStore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
