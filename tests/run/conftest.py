from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pipedag_airflow import Flow, PipedagConfig, Result
from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.config.embedded import duckdb_url
from pipedag_airflow.run.session import RunSession
from pipedag_airflow.run.summary import published_by

if TYPE_CHECKING:
    from pathlib import Path

    from pipedag_airflow import ConfigContext


class Project:
    """A configuration with data of its own, and what tests ask of runs in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.called: list[str] = []
        self.settings: dict[str, Any] = {
            "fail_fast": True,
            "strict_result_get_locking": False,
            "stage_commit_technique": "read_views",
            "instance_id": "test",
            "table_store": {
                "class": "pipedag_airflow.backend.table.SQLTableStore",
                "args": {"url": duckdb_url(folder / "pipeline.duckdb")},
            },
            "blob_store": {
                "class": "pipedag_airflow.backend.blob.FileBlobStore",
                "args": {"base_path": str(folder / "blobs")},
            },
            "lock_manager": {
                "class": "pipedag_airflow.backend.lock.FileLockManager",
                "args": {"base_path": str(folder / "locks")},
            },
            "orchestration": {"class": "pipedag_airflow.engine.SequentialEngine"},
            "auto_table": ["pandas.DataFrame", "polars.DataFrame"],
        }

    def config(self, **settings: Any) -> ConfigContext:
        return PipedagConfig({"instances": {"__any__": self.settings | settings}}).get()

    def call(self, name: str) -> None:
        """Note that a task's function was called; tasks of tests do so first."""
        self.called.append(name)

    def run(self, flow: Flow, *components: Any, config: ConfigContext | None = None, **arguments: Any) -> Result:
        self.called.clear()
        return flow.run(*components, config=config or self.config(), **arguments)

    def executed(self, flow: Flow, **arguments: Any) -> list[str]:
        """Run the flow and return the functions that were called."""
        self.run(flow, **arguments)
        return list(self.called)

    def session(self, flow: Flow, run_id: str = "run") -> RunSession:
        """Return what a step of an orchestrator whose steps are separate processes has."""
        return RunSession(flow, self.config(), Owner.of_run(run_id), engine="test", is_over=lambda lease: True)

    def generations(self, result: Result) -> dict[str, int]:
        return {stage.name: stage.generation for stage in published_by(result)}

    def tables(self, result: Result) -> dict[str, dict[str, int]]:
        """Return the rows of each published table by stage."""
        return {stage.name: {table.name: table.rows for table in stage.tables} for stage in published_by(result)}

    def query(self, sql: str) -> list[tuple[Any, ...]]:
        """Ask the database as a reader does who knows nothing of us."""
        import duckdb

        with duckdb.connect(str(self.folder / "pipeline.duckdb"), read_only=True) as connection:
            return connection.execute(sql).fetchall()


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)
