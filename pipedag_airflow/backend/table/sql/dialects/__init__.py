"""One module or package per dialect: a small class of capabilities and a few verbs said differently."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipedag_airflow.backend.table.sql.dialects.db2.store import IBMDB2TableStore
    from pipedag_airflow.backend.table.sql.dialects.duckdb import DuckDBTableStore
    from pipedag_airflow.backend.table.sql.dialects.postgres.store import PostgresTableStore
    from pipedag_airflow.backend.table.sql.dialects.sqlserver.store import MSSqlTableStore

__all__ = ["DuckDBTableStore", "IBMDB2TableStore", "MSSqlTableStore", "PostgresTableStore"]

_MODULES = {
    "DuckDBTableStore": "duckdb",
    "IBMDB2TableStore": "db2.store",
    "MSSqlTableStore": "sqlserver.store",
    "PostgresTableStore": "postgres.store",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
