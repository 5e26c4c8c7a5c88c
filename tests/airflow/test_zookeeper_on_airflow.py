"""Locks in a real ZooKeeper, with the real Airflow."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import FlowFolder

    from pipedag_airflow.testing.zookeeper import Ensemble

pytestmark = pytest.mark.airflow

FLOW = """
from pathlib import Path

import polars as pl
from pipedag_airflow import Flow, PipedagConfig, Stage, Table, materialize


@materialize(version="1")
def holder() -> Table[pl.DataFrame]:
    with PipedagConfig(Path(__file__).parent).get().lock_manager as locks:
        (lease,) = locks.leases()
    return Table(pl.DataFrame({"stage": [lease.stage], "run": [lease.owner.run_id]}), "holder")


with Flow("zookeeper") as flow, Stage("raw"):
    holder()
"""


def test_a_dag_run_has_its_stage_from_step_to_step(
    flows: Callable[[str], FlowFolder], zookeeper_server: Ensemble
) -> None:
    folder = flows("zookeeper")
    folder.configure(
        lock_manager={
            "class": "pipedag_airflow.backend.lock.ZooKeeperLockManager",
            "args": {"hosts": zookeeper_server.hosts},
        }
    )
    folder.write(FLOW)

    run = folder.run()
    assert run.state == "success"
    assert folder.query("select stage, run from raw.holder") == [("raw", f"airflow:zookeeper/{run.run_id}")]
    with folder.config().create_lock_manager() as locks:
        assert locks.leases() == []
