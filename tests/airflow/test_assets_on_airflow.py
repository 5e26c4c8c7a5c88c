"""The form of a run and the assets of stages and tables, on the real Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from looking import eventually

from pipedag_airflow.testing.rest import AirflowRequestError

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import FlowFolder

pytestmark = pytest.mark.airflow

ANNOUNCED = """
import polars as pl
from pipedag_airflow import Flow, Stage, Table, materialize


@materialize(version="1")
def orders():
    return Table(pl.DataFrame({"x": [1, 2, 3]}), "orders")


with Flow("announced") as flow:
    with Stage("announced_raw"):
        orders()
"""

LISTENER = """
from airflow.sdk import Asset
from pipedag_airflow import Flow, Stage, materialize


@materialize
def heard():
    return 1


with Flow("listener", airflow={"schedule": [Asset("pipedag://announced/__any__/announced_raw/orders")]}) as flow:
    with Stage("listened"):
        heard()
"""


MANY = """
import polars as pl
from pipedag_airflow import Flow, Stage, Table, materialize


@materialize(version="1")
def tables():
    return [Table(pl.DataFrame({"x": [number]}), f"table_{number}") for number in range(200)]


with Flow("many_tables", airflow={"granularity": "flow"}) as flow:
    with Stage("many_stage"):
        tables()
"""


def test_a_dry_run_says_what_would_run_and_a_publish_but_no_unchanged_run_lets_another_flow_run(
    flows: Callable[[str], FlowFolder],
) -> None:
    folder = flows("announced")
    client = folder.client
    folder.write(ANNOUNCED)
    folder.write(LISTENER, flow="listener")

    with pytest.raises(AirflowRequestError) as refused:
        client.trigger("announced", {"cache_validation_mode": "force"})
    assert refused.value.status == 400
    assert "force_cache_invalid" in str(refused.value)

    dry = client.trigger("announced", {"dry_run": True})
    assert client.wait_run("announced", dry, timeout=120)["state"] == "success"
    states = client.states("announced", dry)
    assert states.pop("announced_raw.begin_transaction") == "success"
    assert set(states.values()) == {"skipped"}
    entry = f"/api/v2/dags/announced/dagRuns/{dry}/taskInstances/announced_raw.begin_transaction/xcomEntries/decisions"
    assert "runs (first_run)" in str(client.request("GET", entry)["value"])
    assert folder.tables() == {}
    assert events(folder) == []

    first = folder.run()
    heard = eventually(lambda: client.request("GET", "/api/v2/dags/listener/dagRuns")["dag_runs"])
    assert client.wait_run("listener", heard[0]["dag_run_id"], timeout=120)["state"] == "success"
    # Airflow cannot show an event while the run that it has triggered is queued.
    stage, table = sorted(events(folder), key=lambda event: str(event["uri"]))
    assert (stage["uri"], table["uri"]) == (
        "pipedag://announced/__any__/announced_raw",
        "pipedag://announced/__any__/announced_raw/orders",
    )
    assert stage["extra"]["rows"] == {"orders": 3}
    assert (table["extra"]["generation"], table["extra"]["rows"]) == (1, 3)
    assert table["source_run_id"] == first.run_id

    assert folder.run().skipped == {"announced_raw.orders", "announced_raw.commit_transaction"}
    assert len(events(folder)) == 2


def events(folder: FlowFolder) -> list[dict[str, Any]]:
    found = folder.client.request("GET", "/api/v2/assets/events?source_dag_id=announced")["asset_events"]
    return list(found)


def test_a_publish_of_many_tables_is_shown_as_done_and_if_airflow_has_lost_that_clearing_is_enough(
    flows: Callable[[str], FlowFolder],
) -> None:
    folder = flows("many_tables")
    client = folder.client
    folder.write(MANY)

    # Success and events are one request; if it takes too long, Airflow repeats it while the first one is at work.
    run = client.trigger("many_tables")
    assert client.wait_run("many_tables", run, timeout=240)["state"] == "success"
    (instance,) = client.task_instances("many_tables", run)
    assert instance["try_number"] == 1
    count = "select count(*) from information_schema.tables where table_schema = 'many_stage'"
    assert folder.query(count) == [(200,)]

    client.set_task_state("many_tables", run, "many_tables", "failed")
    client.clear("many_tables", run, ["many_tables"])
    assert client.wait_run("many_tables", run, timeout=240)["state"] == "success"
    assert folder.live() == {"many_stage": 1}
    assert "everything is valid" in client.log("many_tables", run, "many_tables", try_number=2)
