from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from pipedag_airflow import PipedagConfig
from pipedag_airflow.config.embedded import duckdb_url

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pipedag_airflow import ConfigContext


@pytest.fixture
def database(tmp_path: Path) -> str:
    """The URL of an empty database."""
    return duckdb_url(tmp_path / "pipeline.duckdb")


@pytest.fixture
def locks(tmp_path: Path) -> dict[str, object]:
    """The lock manager."""
    return {"class": "file", "args": {"base_path": str(tmp_path / "locks")}}


@pytest.fixture
def settings(tmp_path: Path, database: str, locks: dict[str, object]) -> dict[str, object]:
    """The content of pipedag.yaml, with two instances."""
    common = {
        "fail_fast": False,
        "strict_result_get_locking": False,
        "blob_store": {"class": "file", "args": {"base_path": str(tmp_path / "blobs")}},
        "lock_manager": locks,
        "orchestration": {"class": "sequential"},
    }
    stores = {
        name: {"instance_id": name, "table_store": {"class": "sql", "args": {"url": database, "schema_prefix": prefix}}}
        for name, prefix in (("one", ""), ("other", "other_"))
    }
    return {"instances": {"__any__": common, **stores}}


@pytest.fixture
def instances(tmp_path: Path, settings: dict[str, object]) -> Callable[[str], ConfigContext]:
    """Gives the configuration of an instance by its name."""
    file = tmp_path / "pipedag.yaml"
    file.write_text(yaml.safe_dump(settings))
    return lambda name: PipedagConfig(file).get(name)
