"""What `result.explain(task)` says."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from pipedag_airflow import Flow, Stage, materialize
from pipedag_airflow.errors import CacheError
from pipedag_airflow.run.explain import explain

if TYPE_CHECKING:
    from conftest import Project


def flow_of(version: str) -> Flow:
    @materialize(version=version)
    def one() -> int:
        return int(version)

    @materialize(version="1")
    def two(x: int) -> int:
        return x

    with Flow("why") as flow, Stage("raw"):
        two(one())
    return flow


def test_a_task_says_why_it_ran_and_since_when_it_is_valid(project: Project) -> None:
    flow = flow_of("1")
    first = project.run(flow)
    assert f"raw.one: executed\n  decided by run {first.run_id} (generation 1, published" in first.explain(
        flow["raw"]["one"]
    )
    assert "reason: first_run" in first.explain(flow["raw"]["one"])

    changed = flow_of("2")
    second = project.run(changed)
    assert "reason: version_changed: version '1' is now '2'" in second.explain(changed["raw"]["one"])
    assert "reason: input_changed: argument 'x': 1 is now 2" in second.explain(changed["raw"]["two"])
    assert "input x: 2" in second.explain(changed["raw"]["two"])

    for runs in ("1 run", "2 runs"):
        third = project.run(flow_of("2"))
        told = third.explain(changed["raw"]["two"])
        assert told.startswith("raw.two: valid\n")
        assert f"nothing has changed in {runs} since; the last was run {third.run_id} (generation" in told
        assert f"decided by run {second.run_id}" in told

    assert "reason: first_run" in first.explain(flow["raw"]["one"]), "a result explains its own run"


def test_an_unknown_task_is_told_with_the_known_ones(project: Project) -> None:
    result = project.run(flow_of("1"))
    with (
        result.config_context.table_store.transaction() as transaction,
        pytest.raises(CacheError, match=r"Did you mean 'raw\.one'\? Known tasks: raw\.one, raw\.two\."),
    ):
        explain(transaction.metadata, "raw.ome")
