from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from pipedag_airflow import PipedagConfig
from pipedag_airflow.config.embedded import duckdb_url

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipedag_airflow import ConfigContext


@pytest.fixture
def config(tmp_path: Path) -> Callable[..., ConfigContext]:
    """Make a configuration with data of its own."""

    def make(**settings: Any) -> ConfigContext:
        backend = "pipedag_airflow.backend"
        everything = {
            "instance_id": "test",
            "fail_fast": False,
            "stage_commit_technique": "read_views",
            "table_store": {
                "class": f"{backend}.table.SQLTableStore",
                "args": {"url": duckdb_url(tmp_path / "pipeline.duckdb")},
            },
            "blob_store": {"class": f"{backend}.blob.FileBlobStore", "args": {"base_path": str(tmp_path / "blobs")}},
            "lock_manager": {
                "class": f"{backend}.lock.FileLockManager",
                "args": {"base_path": str(tmp_path / "locks")},
            },
            "orchestration": {"class": "pipedag_airflow.engine.SequentialEngine"},
        }
        return PipedagConfig({"instances": {"__any__": everything | settings}}).get()

    return make


@pytest.fixture
def dot(require_program: Callable[[str, str], None]) -> None:
    """The test draws with Graphviz."""
    require_program("dot", "graphviz")
