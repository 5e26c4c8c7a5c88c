"""The example on a real Airflow with its data in PostgreSQL: one line of the configuration names the database."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
import yaml

from pipedag_airflow.config.embedded import duckdb_url, embedded_default

if TYPE_CHECKING:
    from conftest import FlowAirflow

pytestmark = pytest.mark.airflow

FLOW_FILE = Path(__file__).parents[2] / "dags_examples" / "flights.py"
ROWS = {
    ("ingest", "flights"): 336_776,
    ("enrich", "flights"): 336_776,
    ("weather", "flights_in_weather"): 335_220,
    ("report", "by_carrier"): 16,
    ("report", "by_route"): 224,
}


def spans(tasks: list[dict[str, Any]]) -> list[tuple[str, str]]:
    return sorted((task["start_date"], task["end_date"]) for task in tasks if task["try_number"] > 0)


def test_flights_run_on_postgresql_in_parallel_processes(
    airflow: FlowAirflow, postgres_url: sa.URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, home = airflow.dags_folder / "flights", airflow.data / "flights"
    home.mkdir()
    monkeypatch.setenv("PIPEDAG_HOME", str(home))
    before = yaml.safe_dump(embedded_default().data)
    there = postgres_url.set(drivername="postgresql").render_as_string(hide_password=False)
    after = before.replace(duckdb_url(home / "pipeline.duckdb"), there)
    assert sum(old != new for old, new in zip(before.splitlines(), after.splitlines(), strict=True)) == 1
    folder.mkdir()
    (folder / "pipedag.yaml").write_text(after)
    client, now = airflow.client, datetime.now(UTC)
    (folder / "flights.py").write_text(FLOW_FILE.read_text())
    client.wait_dag("flights", file="flights/flights.py", parsed_after=now)
    client.unpause("flights")

    first = client.trigger("flights")
    assert client.wait_run("flights", first, timeout=240)["state"] == "success"
    tasks = client.task_instances("flights", first)
    assert {task["state"] for task in tasks} == {"success"}
    assert any(begin < end for (_, end), (begin, _) in pairwise(spans(tasks))), "no two tasks were at work at one time"
    engine = sa.create_engine(postgres_url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        found = {
            name: connection.scalar(sa.select(sa.func.count()).select_from(sa.table(name[1], schema=name[0])))
            for name in ROWS
        }
    assert found == ROWS

    second = client.trigger("flights")
    assert client.wait_run("flights", second, timeout=240)["state"] == "success"
    processes = [task["task_id"] for task in client.task_instances("flights", second) if task["try_number"] > 0]
    assert len(processes) == 5
    assert all(node.endswith(".begin_transaction") for node in processes)
