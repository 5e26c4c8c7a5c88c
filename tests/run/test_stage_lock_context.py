"""Stages that stay locked beyond the end of a run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from pipedag_airflow import Flow, Stage, StageLockContext, Table, materialize
from pipedag_airflow.errors import CacheError

if TYPE_CHECKING:
    from conftest import Project


def flow() -> Flow:
    @materialize(version="1")
    def task(value: int) -> int:
        return value

    with Flow("flow") as flow:
        with Stage("one"):
            made = task(1)
        with Stage("two"):
            task(made)
    return flow


def test_stages_stay_locked_until_the_block_ends_and_runs_within_it_share_them(project: Project) -> None:
    locks = project.config().lock_manager
    with StageLockContext():
        project.run(flow())
        assert [locks.holder(stage) is not None for stage in ("one", "two")] == [True, True]
        project.run(flow(), "two.task")
        with StageLockContext():
            project.run(flow(), "stage:one")
        assert [locks.holder(stage) is not None for stage in ("one", "two")] == [False, True]
    assert [locks.holder(stage) for stage in ("one", "two")] == [None, None]


def test_a_result_reads_what_its_own_run_made_or_says_that_it_is_gone(project: Project) -> None:
    def version(number: int) -> Flow:
        @materialize(version=str(number), input_type=pl.DataFrame)
        def made() -> Table[Any]:
            return Table(pl.DataFrame({"number": [number]}), "made")

        with Flow("flow") as flow, Stage("stage"):
            made()
        return flow

    config = project.config(generations_to_keep=2)
    results = [project.run(version(number), config=config) for number in range(4)]
    numbers = [result.get(result.flow["stage"]["made"])["number"].to_list() for result in results[2:]]
    assert numbers == [[2], [3]]
    with pytest.raises(
        CacheError, match=r"The table stage.made of task 'stage.made' is gone: generation 1 of its stage"
    ):
        results[0].get(results[0].flow["stage"]["made"])
