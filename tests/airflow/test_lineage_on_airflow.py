"""What OpenLineage's provider hears of a flow, on the real Airflow, through its transport to a file."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import FlowAirflow, FlowFolder

pytestmark = pytest.mark.airflow

TRACED = """
import polars as pl
import sqlalchemy as sa
from airflow.providers.openlineage.utils.selective_enable import enable_lineage
from pipedag_airflow import Flow, Stage, Table, materialize


@materialize(version="1")
def orders():
    return Table(pl.DataFrame({"id": [1, 2, 3], "city": ["a", "b", "c"]}), "orders")


@materialize(lazy=True, input_type=sa.Table)
def large(table):
    return Table(sa.select(table.c.id).where(table.c.id > 1), "large")


with Flow("traced") as flow:
    with Stage("traced_raw"):
        made = orders()
    with Stage("traced_mart"):
        large(made)

dag = enable_lineage(flow.to_dag())
"""


def test_tasks_and_commits_tell_of_tables_with_columns_and_queries(
    airflow: FlowAirflow, flows: Callable[[str], FlowFolder]
) -> None:
    folder = flows("traced")
    folder.write(TRACED)
    assert folder.run().state == "success"
    told = completed(airflow)
    database = f"duckdb://{folder.data}/pipeline.duckdb"
    orders = (database, "pipeline.traced_raw.orders", {"id": "BIGINT", "city": "VARCHAR"})
    large = (database, "pipeline.traced_mart.large", {"id": "BIGINT"})
    assert {node: (tables(event["inputs"]), tables(event["outputs"])) for node, event in told.items()} == {
        "traced_raw.begin_transaction": ([], []),
        "traced_raw.orders": ([], [orders]),
        "traced_raw.commit_transaction": ([], [orders]),
        "traced_mart.begin_transaction": ([], []),
        "traced_mart.large": ([orders], [large]),
        "traced_mart.commit_transaction": ([], [large]),
    }
    (made,) = told["traced_mart.large"]["outputs"]
    assert made["outputFacets"]["outputStatistics"]["rowCount"] == 2
    query = told["traced_mart.large"]["job"]["facets"]["sql"]["query"]
    # What a reader could ask, not the names of generations.
    assert "FROM traced_raw.orders" in query.replace('"', "")
    assert "__g" not in query
    assert "sql" not in told["traced_raw.orders"]["job"]["facets"]


def completed(airflow: FlowAirflow) -> dict[str, dict[str, Any]]:
    """Return the last event of each task of the flow."""
    events = map(json.loads, airflow.lineage.read_text().splitlines())
    named = ((event["job"]["name"].partition(".")[2], event) for event in events if event["eventType"] == "COMPLETE")
    return {node: event for node, event in named if node.startswith("traced_")}


def tables(datasets: list[dict[str, Any]]) -> list[tuple[str, str, dict[str, str]]]:
    return [
        (
            dataset["namespace"],
            dataset["name"],
            {field["name"]: field["type"] for field in dataset["facets"]["schema"]["fields"]},
        )
        for dataset in datasets
    ]
