"""A part of a flow on the real Airflow, asked for by the parameters of the run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import FlowFolder

pytestmark = pytest.mark.airflow

PARTS = """
import polars as pl
from pipedag_airflow import Flow, Stage, Table, materialize


@materialize(version="VERSION")
def orders():
    return Table(pl.DataFrame({"version": ["VERSION"]}), "orders")


@materialize(version="1", tags="rates")
def rates():
    return 2


@materialize(version="1", input_type=pl.DataFrame)
def priced(table, rate):
    return Table(table.with_columns(rate=pl.lit(rate)), "priced")


@materialize(version="1", input_type=pl.DataFrame)
def report(table):
    return Table(table, "report")


with Flow("parts") as flow:
    with Stage("raw"):
        table, rate = orders(), rates()
    with Stage("clean"):
        made = priced(table, rate)
    with Stage("out"):
        report(made)
"""


def test_single_tasks_run_unpublished_and_stages_are_published(flows: Callable[[str], FlowFolder]) -> None:
    folder = flows("parts")
    client = folder.client

    def run(**conf: object) -> dict[str, str | None]:
        run_id = client.trigger("parts", conf)
        assert client.wait_run("parts", run_id, timeout=120)["state"] == "success"
        return client.states("parts", run_id)

    def version(table: str) -> str:
        ((version,),) = folder.query(f"select version from {table}")
        return version

    folder.write(PARTS.replace("VERSION", "1"))
    folder.run()
    folder.write(PARTS.replace("VERSION", "2"))

    states = run(select=["+clean.priced"], exclude=["tag:rates"])
    assert {node for node, state in states.items() if state == "success"} == {
        *("raw.begin_transaction", "clean.begin_transaction", "out.begin_transaction"),
        *("raw.orders", "clean.priced"),
    }
    assert set(states.values()) == {"success", "skipped"}
    assert version("raw.orders") == version("clean.priced") == "1"
    newest = folder.query("select max(schema_name) from information_schema.schemata where schema_name like 'clean__g%'")
    assert version(f"{newest[0][0]}.priced") == "2"

    states = run(select="stage:raw stage:clean")
    assert states["raw.orders"] == "skipped"  # what the run before has made is taken over
    assert states["raw.commit_transaction"] == states["clean.commit_transaction"] == "success"
    assert states["out.report"] == states["out.commit_transaction"] == "skipped"
    assert version("raw.orders") == version("clean.priced") == "2"
    assert version("out.report") == "1"

    assert folder.run().state == "success"
    assert version("out.report") == "2"
