"""The configuration of those who have no file yet: DuckDB and files in a local folder."""

from __future__ import annotations

import os
from pathlib import Path
from urllib.parse import quote

from pipedag_airflow.config.source import Document, Source

HOME_VARIABLE = "PIPEDAG_HOME"
EMBEDDED = "embedded default"

#: What is stored as a table without being wrapped, where nobody has said anything.
AUTO_TABLE = (
    "pandas.DataFrame",
    "polars.DataFrame",
    "polars.LazyFrame",
    "ibis.Table",
    "sqlalchemy.sql.expression.TextClause",
    "sqlalchemy.sql.expression.Selectable",
)


def embedded_default(start: Path | None = None) -> Document:
    """Give the configuration that is used when there is no file.

    Everything lives in the folder ``PIPEDAG_HOME``, or else in ``.pipedag`` next to the flow or in the working
    directory.

    Args:
        start: The folder of the module that defines the flow.

    Returns:
        The configuration. Nothing is created on disk.
    """
    named = os.environ.get(HOME_VARIABLE)
    folder = (Path(named).expanduser() if named else (start or Path.cwd()) / ".pipedag").absolute()
    backend = "pipedag_airflow.backend"
    anything = {
        "instance_id": "pipeline",
        "stage_commit_technique": "read_views",
        "fail_fast": True,
        "strict_result_get_locking": False,
        "auto_table": list(AUTO_TABLE),
        "table_store": {
            "class": f"{backend}.table.SQLTableStore",
            "args": {"url": duckdb_url(folder / "pipeline.duckdb")},
        },
        "blob_store": {"class": f"{backend}.blob.FileBlobStore", "args": {"base_path": str(folder / "blobs")}},
        "lock_manager": {"class": f"{backend}.lock.FileLockManager", "args": {"base_path": str(folder / "locks")}},
        "orchestration": {"class": "pipedag_airflow.engine.SequentialEngine"},
    }
    data = {"name": "pipeline", "strict_instance_lookup": False, "instances": {"__any__": anything}}
    return Document(data=data, source=Source(name=EMBEDDED))


def duckdb_url(file: Path) -> str:
    """Write the URL of a DuckDB file.

    Args:
        file: The absolute path of the file.

    Returns:
        The URL. Characters that mean something in a URL are escaped; SQLAlchemy turns them back.
    """
    return f"duckdb:///{quote(file.as_posix(), safe='/:')}"
