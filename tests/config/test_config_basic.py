from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from pipedag_airflow import Blob, Flow, Stage, create_basic_pipedag_config, materialize
from pipedag_airflow.errors import ConfigError, StoreError

if TYPE_CHECKING:
    from pathlib import Path


def test_the_url_of_a_database_is_enough_to_run_a_flow(tmp_path: Path) -> None:
    @materialize
    def frame() -> Any:
        return pd.DataFrame({"x": [1, 2]})

    with Flow("basic") as flow, Stage("one"):
        made = frame()

    with create_basic_pipedag_config(f"duckdb:///{tmp_path}/data.duckdb").get():
        result = flow.run()
        assert result.get(made, as_type=pd.DataFrame)["x"].tolist() == [1, 2]
    names = sorted(path.name for path in tmp_path.glob("data*"))
    assert names == ["data.duckdb", "data.duckdb.locks", "data.duckdb.queue"]


def test_blobs_need_a_folder(tmp_path: Path) -> None:
    @materialize
    def blob() -> Any:
        return Blob([1, 2], "numbers")

    with Flow("basic") as flow, Stage("one"):
        made = blob()

    url = f"duckdb:///{tmp_path}/data.duckdb"
    with pytest.raises(StoreError, match="NoBlobStore"):
        flow.run(config=create_basic_pipedag_config(url).get())
    context = create_basic_pipedag_config(url, tmp_path / "blobs").get()
    assert flow.run(config=context).get(made) == [1, 2]


@pytest.mark.parametrize(
    ("url", "arguments", "manager", "folder"),
    [
        ("duckdb:////srv/shop.duckdb", {}, "FileLockManager", "/srv/shop.duckdb.locks"),
        ("duckdb:////srv/my%20shop.duckdb?threads=2", {}, "FileLockManager", "/srv/my shop.duckdb.locks"),
        ("duckdb:///:memory:", {}, "NoLockManager", None),
        ("duckdb://", {}, "NoLockManager", None),
        ("postgresql://me:pw@host/shop", {}, "DatabaseLockManager", None),
        ("postgresql+psycopg://me:pw@host/shop", {"lock_directory": "/srv/l"}, "FileLockManager", "/srv/l"),
        ("mssql+pyodbc://me:pw@host/shop", {"disable_stage_locking": True}, "NoLockManager", None),
    ],
)
def test_where_locks_are_kept(url: str, arguments: dict[str, Any], manager: str, folder: str | None) -> None:
    section = create_basic_pipedag_config(url, **arguments).get().config_dict["lock_manager"]

    assert section["class"] == f"pipedag_airflow.backend.lock.{manager}"
    assert section.get("args", {}).get("base_path") == folder


@pytest.mark.parametrize(
    ("url", "technique"),
    [
        ("duckdb://", "read_views"),
        ("mssql+pyodbc://host/db", "read_views"),
        ("ibm_db_sa://host/db", "read_views"),
        ("postgresql://host/db", "schema_swap"),
    ],
)
def test_how_stages_become_visible(url: str, technique: str) -> None:
    assert create_basic_pipedag_config(url).get().stage_commit_technique.value == technique


def test_its_options_reach_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PASSWORD", "s3cret")
    config = create_basic_pipedag_config(
        "postgresql://me:{$PASSWORD}@host/db", name="shop", instance_id="test", fail_fast=False, attrs={"limit": 3}
    )

    context = config.get(instance="any", flow="any")

    assert (context.pipedag_name, context.instance_id, context.fail_fast) == ("shop", "test", False)
    assert context.attrs.limit == 3
    assert context.config_dict["table_store"]["args"]["url"] == "postgresql://me:s3cret@host/db"
    assert not context.strict_result_get_locking


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"engine_url": "s3cret.duckdb"}, "engine_url is no SQLAlchemy URL. A valid one looks like duckdb:"),
        (
            {"engine_url": "duckdb://", "lock_directory": "locks", "disable_stage_locking": True},
            "disable_stage_locking is set, but there is a lock_directory, too: 'locks'",
        ),
    ],
)
def test_what_cannot_be_meant_is_refused(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        create_basic_pipedag_config(**arguments)
    assert "s3cret" not in str(caught.value)
