"""A configuration in Python, for those who want no file: :func:`create_basic_pipedag_config`."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from pipedag_airflow.config.config import PipedagConfig
from pipedag_airflow.config.embedded import AUTO_TABLE
from pipedag_airflow.errors import ConfigError

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["create_basic_pipedag_config"]

_BACKEND = "pipedag_airflow.backend"
_DIALECT = re.compile(r"(?P<dialect>\w+)(\+\w+)?://")
_READ_VIEWS = frozenset({"duckdb", "mssql", "ibm_db_sa", "db2"})


def create_basic_pipedag_config(
    engine_url: str,
    blob_directory: str | Path | None = None,
    name: str = "pipeline",
    instance_id: str = "pipeline",
    *,
    lock_directory: str | Path | None = None,
    disable_stage_locking: bool = False,
    fail_fast: bool = True,
    attrs: dict[str, Any] | None = None,
) -> PipedagConfig:
    """Make a configuration of one instance from the URL of a database.

    Frames of pandas and polars, SQLAlchemy queries and Ibis expressions are stored as tables without being wrapped in
    ``Table``. Nothing is imported, opened or connected.

    Args:
        engine_url: SQLAlchemy URL of the database. It may have ``{$NAME}`` for an environment variable, so that no
            password stands in the code.
        blob_directory: The folder of the blobs, which all workers must see; without one, a task cannot return a blob.
        name: The name of the configuration.
        instance_id: The namespace of everything that is stored.
        lock_directory: A folder for the locks of stages, which all processes must see. Without one the locks are kept
            in the database, or, as DuckDB has none, in the folder ``<file>.locks`` beside its file.
        disable_stage_locking: Do without locks, for runs that are sure to be the only ones.
        fail_fast: Raise the first error of a run.
        attrs: Values of your own: ``ConfigContext.get().attrs``.

    Returns:
        The configuration; ``config.get()`` gives the context to run flows with.

    Raises:
        ConfigError: if ``engine_url`` is no URL, or locks are both disabled and given a folder.

    Example:
        ::

            config = create_basic_pipedag_config("duckdb:////srv/shop/shop.duckdb", blob_directory="/srv/shop/blobs")
            with config.get():
                flow.run()
    """
    match = _DIALECT.match(engine_url)
    if match is None:
        # The text may hold a password, so it is not shown.
        raise ConfigError("engine_url is no SQLAlchemy URL. A valid one looks like duckdb:////path/to/file.duckdb")
    if disable_stage_locking and lock_directory is not None:
        raise ConfigError(f"disable_stage_locking is set, but there is a lock_directory, too: {str(lock_directory)!r}.")
    dialect = match["dialect"]
    anything = {
        "instance_id": instance_id,
        "stage_commit_technique": "read_views" if dialect in _READ_VIEWS else "schema_swap",
        "fail_fast": fail_fast,
        "strict_result_get_locking": False,
        "auto_table": list(AUTO_TABLE),
        "attrs": attrs or {},
        "table_store": {"class": f"{_BACKEND}.table.SQLTableStore", "args": {"url": engine_url}},
        "blob_store": _blob_store(blob_directory),
        "lock_manager": {"class": f"{_BACKEND}.lock.NoLockManager"}
        if disable_stage_locking
        else _lock_manager(engine_url, dialect, lock_directory),
        "orchestration": {"class": "pipedag_airflow.engine.SequentialEngine"},
    }
    return PipedagConfig({"name": name, "strict_instance_lookup": False, "instances": {"__any__": anything}})


def _blob_store(folder: str | Path | None) -> dict[str, Any]:
    if folder is None:
        return {"class": f"{_BACKEND}.blob.NoBlobStore"}
    return {"class": f"{_BACKEND}.blob.FileBlobStore", "args": {"base_path": str(folder)}}


def _lock_manager(engine_url: str, dialect: str, folder: str | Path | None) -> dict[str, Any]:
    if folder is None and dialect != "duckdb":
        return {"class": f"{_BACKEND}.lock.DatabaseLockManager"}
    if folder is None:
        file = unquote(engine_url.partition(":///")[2].partition("?")[0])
        if file in ("", ":memory:"):  # it is this process's alone
            return {"class": f"{_BACKEND}.lock.NoLockManager"}
        folder = f"{file}.locks"
    return {"class": f"{_BACKEND}.lock.FileLockManager", "args": {"base_path": str(folder)}}
