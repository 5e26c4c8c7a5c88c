"""Connections, the hook and our option, as Airflow itself finds them."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest
import sqlalchemy as sa

from pipedag_airflow.errors import ConfigError
from pipedag_airflow.provider.connections import read_config
from pipedag_airflow.provider.hook import PipedagHook

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import DagFolder

PASSWORD = "p@ss/word 9"
FLOW = """
from pipedag_airflow import Flow, Stage, materialize

@materialize(version="1")
def task():
    return 1

with Flow("flow") as flow, Stage("stage"):
    task()
"""
YAML = """
instances:
  __any__:
    table_store: {class: pipedag_airflow.backend.table.SQLTableStore, args: {conn_id: warehouse}}
"""


@pytest.fixture
def warehouse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of a database that a connection names; Airflow reads the variable, too."""
    file = tmp_path / "warehouse.duckdb"
    uri = f"duckdb://bob:{quote(PASSWORD, safe='')}@{quote(str(file), safe='')}"
    monkeypatch.setenv("AIRFLOW_CONN_WAREHOUSE", uri)
    return file


def test_a_step_has_its_store_from_the_connection_and_airflow_masks_the_password(
    dags: DagFolder, warehouse: Path
) -> None:
    from airflow.sdk._shared.secrets_masker import _secrets_masker

    dags.config(YAML)
    assert read_config(dags.path, None, "flow").table_store.address == f"duckdb:///{warehouse}"
    text = f"{PASSWORD} and {quote(PASSWORD, safe='')}"
    assert _secrets_masker().redact(text) == "*** and ***"


def test_a_file_is_parsed_without_its_connection(dags: DagFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AIRFLOW_CONN_WAREHOUSE", raising=False)
    dags.config(YAML)
    dags.write(flow=FLOW)
    bag = dags.parse()
    assert not bag.import_errors
    operator = bag.dags["flow"].task_dict["stage.task"]
    config = operator.reference.config()
    with pytest.raises(
        ConfigError, match=r"table_store\.args\.conn_id: Airflow has no connection 'warehouse'\. Add it"
    ):
        config.table_store  # noqa: B018 (reading it builds it)


def test_the_option_names_the_configuration_of_all_flows(
    dags: DagFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    common = tmp_path / "common.yaml"
    common.write_text("instances: {__any__: {instance_id: common}}\nflows: {flow: {airflow: {tags: [common]}}}")
    dags.config("instances: {__any__: {instance_id: beside}}")
    dags.write(flow=FLOW)
    assert read_config(dags.path, None, "flow").instance_id == "beside"
    monkeypatch.setenv("AIRFLOW__PIPEDAG__CONFIG_FILE", str(common))
    assert read_config(dags.path, None, "flow").instance_id == "common"
    assert "common" in dags.parse().dags["flow"].tags


def test_the_hook_opens_the_database_of_a_connection(warehouse: Path) -> None:
    hook = PipedagHook("warehouse")
    assert hook.test_connection() == (True, f"Connected to duckdb:///{warehouse}")
    with hook.get_conn() as connection:
        assert connection.execute(sa.text("select 42")).scalar() == 42
    with hook.get_engine().connect() as connection:
        assert connection.execute(sa.text("select current_database()")).scalar() == "warehouse"


def test_the_hook_says_why_a_connection_does_not_work(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(
        "AIRFLOW_CONN_FOLDER", f"duckdb://bob:{quote(PASSWORD, safe='')}@{quote(str(tmp_path), safe='')}"
    )
    works, message = PipedagHook("folder").test_connection()
    assert not works
    assert message.startswith(f"StoreError: The database duckdb:///{tmp_path} cannot be opened: ")
    monkeypatch.setenv("AIRFLOW_CONN_NONE", "pipedag://")
    works, message = PipedagHook("none").test_connection()
    assert not works
    assert message.startswith("ConfigError: the connection 'none' does not say which database it is for")


def test_airflow_knows_the_form_of_the_connection() -> None:
    from airflow.providers_manager import ProvidersManager
    from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime

    manager = ProvidersManager()
    hook = ProvidersManagerTaskRuntime().hooks["pipedag"]
    assert hook is not None
    assert hook.hook_class_name == f"{PipedagHook.__module__}.{PipedagHook.__qualname__}"
    assert hook.connection_id_attribute_name == PipedagHook.conn_name_attr
    assert "extra__pipedag__sqlalchemy_scheme" in manager.connection_form_widgets
    assert manager.field_behaviours["pipedag"]["relabeling"] == {"schema": "Database"}
