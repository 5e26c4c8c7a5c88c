"""Stages that are one operator each, on the real Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import FlowFolder

pytestmark = pytest.mark.airflow

COARSE = """
import polars as pl
from pipedag_airflow import Flow, Stage, Table, materialize


@materialize(version="VERSION")
def orders():
    return Table(pl.DataFrame({"version": ["VERSION"]}), "orders")


@materialize(version="1", input_type=pl.DataFrame)
def risky(table):
    BODY
    return Table(table, "risky")


@materialize(version="1", input_type=pl.DataFrame)
def beside(table):
    return Table(table, "beside")


@materialize(version="1", input_type=pl.DataFrame)
def report(table):
    return Table(table, "report")


with Flow("coarse", airflow={"granularity": "stage"}) as flow:
    with Stage("raw"):
        table = orders()
    with Stage("clean"):
        made = risky(table)
        beside(table)
    with Stage("out", airflow={"granularity": "task"}):
        report(made)
"""


def test_first_unchanged_failing_and_cleared(flows: Callable[[str], FlowFolder]) -> None:
    folder = flows("coarse")
    client = folder.client

    def write(version: str, body: str = "pass") -> None:
        folder.write(COARSE.replace("VERSION", version).replace("BODY", body))

    def run() -> tuple[str, dict[str, str | None]]:
        run_id = client.trigger("coarse")
        client.wait_run("coarse", run_id, timeout=120)
        return run_id, client.states("coarse", run_id)

    def version() -> str:
        ((version,),) = folder.query("select version from out.report")
        return version

    write("1")
    first, states = run()
    out = {"out.begin_transaction": "success", "out.report": "success", "out.commit_transaction": "success"}
    assert states == {"raw": "success", "clean": "success", **out}
    log = client.log("coarse", first, "clean", try_number=1)
    assert "Step 1 of 3: clean.risky" in log
    assert "clean.beside: runs (first_run)" in log
    assert "Stage clean: table beside, 1 rows" in log
    told = f"/api/v2/dags/coarse/dagRuns/{quote(first)}/taskInstances/clean"
    assert client.request("GET", f"{told}/xcomEntries/return_value?deserialize=true")["value"]["stages"] == {
        "clean": {
            "generation": 1,
            "changed": ["beside", "risky"],
            "removed": [],
            "executed": ["clean.risky", "clean.beside"],
            "valid": [],
        }
    }
    assert client.request("GET", f"{told}/links")["extra_links"]["Tables"].endswith("/tasks/clean/xcom")
    inputs = client.request("GET", told)["rendered_fields"]["inputs"]
    assert inputs["clean.risky"]["table"].startswith("table raw.orders, generation 1")

    _, states = run()
    assert {node for node, state in states.items() if state == "success"} == {"raw", "clean", "out.begin_transaction"}
    assert folder.live() == {"raw": 1, "clean": 1, "out": 1}

    write("2", "raise ZeroDivisionError('on purpose')")
    failing, states = run()
    assert states == {"raw": "success", "clean": "failed", **dict.fromkeys(out, "upstream_failed")}
    log = client.log("coarse", failing, "clean", try_number=1)
    assert "clean: failed: clean.risky (ZeroDivisionError: on purpose). Not run for that: clean.commit" in log
    assert "clean.beside: table beside, 1 rows" in log
    assert version() == "1"
    folder.wait_until_free()

    write("2")
    client.clear("coarse", failing, ["clean"], downstream=True)
    assert client.wait_run("coarse", failing, timeout=120)["state"] == "success"
    assert version() == "2"
    log = client.log("coarse", failing, "clean", try_number=2)
    assert "clean.beside: valid" in log
    assert "Step 2 of 3: clean.beside" in log


def test_a_run_that_asks_for_it_has_one_process_for_each_stage(flows: Callable[[str], FlowFolder]) -> None:
    folder = flows("asked")
    client = folder.client
    text = COARSE.replace("VERSION", "1").replace("BODY", "pass")
    folder.write(text.replace('Flow("coarse", airflow={"granularity": "stage"})', 'Flow("asked")'))
    begins = {f"{stage}.begin_transaction" for stage in ("raw", "clean", "out")}

    run = client.trigger("asked", {"granularity": "stage"})
    assert client.wait_run("asked", run, timeout=240)["state"] == "success"
    tasks = {task["task_id"]: task for task in client.task_instances("asked", run)}
    assert {node for node, task in tasks.items() if task["try_number"] > 0} == begins
    assert {node for node, task in tasks.items() if task["state"] == "skipped"} == tasks.keys() - begins
    assert folder.live() == {"raw": 1, "clean": 1, "out": 1}
    folder.check_data()
    assert "Step 1 of 3: clean.risky" in client.log("asked", run, "clean.begin_transaction")
    told = f"/api/v2/dags/asked/dagRuns/{quote(run)}/taskInstances/clean.begin_transaction/xcomEntries"
    tables = client.request("GET", f"{told}/return_value?deserialize=true")["value"]["tasks"]["clean.risky"]["tables"]
    assert tables["risky"]["rows"] == 1
