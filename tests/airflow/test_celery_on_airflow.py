"""Workers of Celery on machines of their own, as far as one machine has them; one of them dies.

Each has a folder, DAG files and logs of its own. What they share is what docs/airflow.md says that they must: the
database of the flows with its locks, a folder for blobs, and Airflow's Fernet key, from which the key of blobs follows.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from looking import eventually

from pipedag_airflow.testing.celery import CeleryAirflow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipedag_airflow.testing.postgres import PostgresServer

pytestmark = pytest.mark.airflow

EXAMPLES = Path(__file__).parents[2] / "dags_examples"

YAML = """
name: shared
instances:
  __any__:
    instance_id: shared
    table_store:
      class: sql
      args: {{url: "{url}"}}
    blob_store:
      class: file
      args: {{base_path: "{data}/blobs", fernet_key: true}}
    lock_manager: {{class: database}}
    orchestration: {{class: sequential}}
flows:
  killed:
    airflow: {{max_active_runs: 2, retries: 1, retry_delay: 1}}
"""

#: The first call of `made` goes on until its worker is killed. Each call tells the process that it is in.
KILLED = """
import os
import time
from pathlib import Path

import polars as pl
from pipedag_airflow import Flow, Stage, Table, materialize

data = Path("DATA")


def call(name):
    with (data / "calls").open("a") as calls:
        calls.write(f"{name}\\n")
    return (data / "calls").read_text().split().count(name)


@materialize(version="1")
def other():
    return Table(pl.DataFrame({"other": [call("other")]}), "other")


@materialize(version="1")
def source():
    return Table(pl.DataFrame({"source": [call("source")]}), "source")


@materialize(version="1", input_type=pl.DataFrame)
def made(table):
    number = call("made")
    if number == 1:
        (data / "pid.new").write_text(str(os.getpid()))
        (data / "pid.new").rename(data / "pid")
        time.sleep(600)
    return Table(table.with_columns(made=pl.lit(number)), "made")


@materialize(version="1", input_type=pl.DataFrame)
def report(table):
    return Table(table.with_columns(report=pl.lit(call("report"))), "report")


with Flow("killed") as flow:
    with Stage("raw"):
        other()
        table = made(source())
    with Stage("mart"):
        report(table)
"""

FLIGHTS = {
    ("ingest", "flights"): 336_776,
    ("enrich", "flights"): 336_776,
    ("weather", "flights_in_weather"): 335_220,
    ("report", "by_carrier"): 16,
    ("report", "by_route"): 224,
    ("report", "forecast"): 13,
}


def ask(url: sa.URL | str, statement: sa.Executable, **values: object) -> sa.CursorResult[Any]:
    with sa.create_engine(url, poolclass=sa.NullPool).begin() as connection:
        return connection.execute(statement, values)


@pytest.fixture(scope="module")
def data_url(postgres: PostgresServer) -> Iterator[sa.URL]:
    """The database of the flows."""
    with postgres.database() as url:
        yield url


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that all workers see."""
    return tmp_path_factory.mktemp("shared")


@pytest.fixture(scope="module")
def airflow(
    tmp_path_factory: pytest.TempPathFactory, postgres: PostgresServer, redis_url: str, data_url: sa.URL, shared: Path
) -> Iterator[CeleryAirflow]:
    """An Airflow with two workers, and two flows in its dags folder."""
    dags = tmp_path_factory.mktemp("dags")
    (dags / "flights.py").write_text((EXAMPLES / "flights.py").read_text())
    (dags / "killed.py").write_text(KILLED.replace("DATA", str(shared)))
    config = shared / "pipedag.yaml"
    config.write_text(YAML.format(url=data_url.render_as_string(hide_password=False), data=shared))
    home = tmp_path_factory.mktemp("airflow")
    with postgres.database() as url:
        database_url = url.render_as_string(hide_password=False)
        env = {"PIPEDAG_CONFIG": str(config)}
        with CeleryAirflow(home, broker_url=redis_url, database_url=database_url, dags_folder=dags, env=env) as started:
            for flow in ("flights", "killed"):
                started.client.wait_dag(flow)
                started.client.unpause(flow)
            yield started


def test_flights_run_on_two_workers(airflow: CeleryAirflow, data_url: sa.URL) -> None:
    run = airflow.client.trigger("flights")
    assert airflow.client.wait_run("flights", run, timeout=240)["state"] == "success"
    states = airflow.client.states("flights", run)
    assert set(states.values()) == {"success"}

    first, second = (worker.tasks("flights", run) for worker in airflow.workers)
    assert first
    assert second
    assert first | second == set(states)
    found = {
        name: ask(data_url, sa.select(sa.func.count()).select_from(sa.table(name[1], schema=name[0]))).scalar_one()
        for name in FLIGHTS
    }
    assert found == FLIGHTS


def test_a_run_whose_celery_worker_dies_goes_on_at_another_one(
    airflow: CeleryAirflow, data_url: sa.URL, shared: Path
) -> None:
    client = airflow.client
    run = client.trigger("killed")
    eventually((shared / "pid").exists)
    eventually(lambda: client.states("killed", run)["raw.other"] == "success")
    second = client.trigger("killed")
    eventually(lambda: client.states("killed", second)["raw.begin_transaction"] == "deferred")

    pid = int((shared / "pid").read_text())
    dead, alive = sorted(airflow.workers, key=lambda worker: worker.runs_process(pid), reverse=True)
    dead.kill()
    begun = alive.tasks("killed", run)
    forget_heartbeats(airflow, run)

    assert client.wait_run("killed", run, timeout=240)["state"] == "success"
    assert client.wait_run("killed", second, timeout=240)["state"] == "success"
    assert alive.tasks("killed", run) - begun == {
        "raw.made",
        "raw.commit_transaction",
        "mart.begin_transaction",
        "mart.report",
        "mart.commit_transaction",
    }
    assert sorted((shared / "calls").read_text().split()) == ["made", "made", "other", "report", "source"]
    report = sa.text("select source, made, report from mart.report")
    assert [tuple(row) for row in ask(data_url, report)] == [(1, 2, 1)]
    generations = sa.text(
        "select stage, state from pipedag_metadata.generation where stage in ('raw', 'mart') and run_id = :run"
    )
    assert sorted(map(tuple, ask(data_url, generations, run=f"airflow:killed/{run}"))) == [
        ("mart", "published"),
        ("raw", "published"),
    ]


def forget_heartbeats(airflow: CeleryAirflow, run: str) -> None:
    """Let Airflow have heard nothing of the tasks of a run for an hour."""
    forget = sa.text(
        "update task_instance set last_heartbeat_at = last_heartbeat_at - interval '1 hour' "
        "where run_id = :run and state = 'running'"
    )
    assert ask(airflow.database_url, forget, run=run).rowcount == 1
