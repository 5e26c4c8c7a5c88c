"""Passwords are nowhere: neither in what Airflow stores, shows and logs, nor in our metadata."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
import sqlalchemy as sa
from canary import CANARY

from pipedag_airflow.backend.lock import Owner

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from conftest import FlowAirflow, FlowFolder

pytestmark = pytest.mark.airflow

BIRD = CANARY[:12]

YAML = """
instances:
  __any__:
    instance_id: leaky
    stage_commit_technique: read_views
    attrs: {password: "{$CANARY}"}
    table_store:
      class: pipedag_airflow.backend.table.SQLTableStore
      args: {conn_id: leaky_database}
    blob_store:
      class: pipedag_airflow.backend.blob.FileBlobStore
      args: {base_path: "DATA/blobs", conn_id: leaky_key}
    lock_manager:
      class: pipedag_airflow.backend.lock.DatabaseLockManager
    orchestration:
      class: pipedag_airflow.engine.SequentialEngine
"""

LEAKY = """
import logging
import os

import polars as pl
from airflow.providers.openlineage.utils.selective_enable import enable_lineage
from airflow.sdk import BaseHook
from pipedag_airflow import Blob, ConfigContext, Flow, RawSql, Stage, Table, materialize


@materialize(version="1")
def talkative():
    password = ConfigContext.get().attrs.password
    logging.getLogger(__name__).info("I have logged %s", password)
    print("I have printed", password)
    return Blob(1, "model")


@materialize(version="1")
def given(password, address):
    return Table(pl.DataFrame({"x": [1]}), "given")


@materialize(lazy=True)
def script(stage):
    password = ConfigContext.get().attrs.password
    return RawSql(f"create table {stage.current_name}.made as select 1 as x /* by {password} */;", "script")


@materialize(version="1")
def failing():
    raise ValueError("Nobody can log in with " + BaseHook.get_connection("leaky_database").password)


with Flow("leaky") as flow, Stage("leaks") as stage:
    talkative()
    given("SUFFIX" + os.environ["CANARY"], "SUFFIX://u:" + os.environ["CANARY"] + "@h")
    script(stage)
    failing()

dag = enable_lineage(flow.to_dag())
"""


@pytest.mark.usefixtures("outside_of_airflow")
def test_a_password_is_found_nowhere(
    airflow: FlowAirflow, flows: Callable[[str], FlowFolder], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = flows("leaky")
    (folder.folder / "pipedag.yaml").write_text(YAML.replace("DATA", str(folder.data)))
    _add_connections(folder)
    # The test itself is no process of Airflow's: it has the connections from its environment.
    file = quote(str(folder.data / "pipeline.duckdb"), safe="")
    monkeypatch.setenv("AIRFLOW_CONN_LEAKY_DATABASE", f"duckdb://u:{quote(CANARY, safe='')}@{file}")
    monkeypatch.setenv("AIRFLOW_CONN_LEAKY_KEY", f"generic://:{quote(CANARY, safe='')}@")
    monkeypatch.setenv("CANARY", CANARY)

    folder.write(LEAKY.replace("SUFFIX", "a"))
    first = _run_after_waiting(folder)
    folder.write(LEAKY.replace("SUFFIX", "b"))
    second = folder.run()
    assert first.states["leaks.begin_transaction"] == "success"
    assert (first.states["leaks.failing"], second.states["leaks.failing"]) == ("failed", "failed")
    assert "runs (input_changed): argument 'address'" in folder.log(second, "leaks.given")

    assert "I have logged ***" in folder.log(first, "leaks.talkative")
    assert "I have printed ***" in folder.log(first, "leaks.talkative")
    assert "Nobody can log in with ***" in folder.log(first, "leaks.failing")
    # What the run held is given back after its end, by a process that has the database open meanwhile.
    folder.wait_until_free()
    texts = {
        "source": [folder.client.dag_source("leaky")],
        "logs": [path.read_text(errors="replace") for path in airflow.log_folder.rglob("*.log")],
        "lineage": airflow.lineage.read_text().splitlines(),
        "Airflow's database": list(_rows_of_airflow(airflow)),
        "metadata and data": list(_rows_of_data(folder)),
    }
    # It is searched where it would be.
    for place, expected in {
        "source": "Nobody can log in",
        "logs": "Nobody can log in with ***",
        "lineage": "create table leaks.made as select 1 as x /* by *** */",
        "Airflow's database": "argument 'address'",
        "metadata and data": "Nobody can log in with ***",
    }.items():
        assert any(expected in text for text in texts[place]), place
    assert {place for place in texts if any(BIRD in text for text in texts[place])} == set()


def _add_connections(folder: FlowFolder) -> None:
    database = {
        "connection_id": "leaky_database",
        "conn_type": "pipedag",
        "host": str(folder.data / "pipeline.duckdb"),
        "login": "u",
        "password": CANARY,
        "extra": '{"sqlalchemy_scheme": "duckdb"}',
    }
    key = {"connection_id": "leaky_key", "conn_type": "generic", "password": CANARY}
    answer = folder.client.request("POST", "/api/v2/connections/test", database)
    assert answer == {"status": True, "message": f"Connected to duckdb:///{folder.data}/pipeline.duckdb"}
    broken = folder.client.request("POST", "/api/v2/connections/test", database | {"host": "relative.duckdb"})
    assert not broken["status"]
    assert "absolute path of the database file" in broken["message"]
    for connection in (database, key):
        folder.client.request("POST", "/api/v2/connections", connection)


def _run_after_waiting(folder: FlowFolder) -> Any:
    """Let a run wait for its stage, so that the triggerer, too, needs the connection: leases are in the database."""
    locks = folder.config().lock_manager
    other = Owner.this_process("local:other")
    locks.acquire("leaks", other, seconds=120)
    locks.dispose()
    run_id = folder.client.trigger("leaky")
    folder.wait_task("leaky", run_id, "leaks.begin_transaction", "deferred")
    locks.release("leaks", other)
    locks.dispose()
    return folder.finished(run_id)


def _rows_of_airflow(airflow: FlowAirflow) -> Iterator[str]:
    """Give everything in Airflow's database: serialised DAGs, rendered fields, XCom, events."""
    with airflow.database() as connection:
        names = sa.inspect(connection).get_table_names()
        assert {"serialized_dag", "rendered_task_instance_fields", "xcom", "log", "connection"} <= set(names)
        for name in names:
            for row in connection.execute(sa.text(f'select * from "{name}"')):
                yield " ".join(_text(value) for value in row)


def _rows_of_data(folder: FlowFolder) -> Iterator[str]:
    """Give everything in the flow's database: the metadata, and the tables of all generations."""
    names = folder.query("select table_schema, table_name from information_schema.tables")
    assert ("pipedag_metadata", "task") in names
    for schema, name in names:
        for row in folder.query(f'select * from "{schema}"."{name}"'):
            yield " ".join(_text(value) for value in row)
    yield from (sql for (sql,) in folder.query("select sql from duckdb_views()"))


def _text(value: object) -> str:
    if isinstance(value, bytes | memoryview):
        return bytes(value).decode(errors="replace")
    return json.dumps(value, ensure_ascii=False) if isinstance(value, dict | list) else str(value)
