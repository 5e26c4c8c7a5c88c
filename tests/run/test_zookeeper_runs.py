"""Whole runs with locks in a real ZooKeeper."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from pipedag_airflow import Flow, Stage, Table, materialize
from pipedag_airflow.backend.lock import LockState, znodes
from pipedag_airflow.errors import StaleRunError
from pipedag_airflow.run.leases import list_leases
from pipedag_airflow.testing.lock_fixtures import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Project

    from pipedag_airflow import ConfigContext
    from pipedag_airflow.testing.zookeeper import Ensemble


def config_at(project: Project, hosts: str, **args: Any) -> ConfigContext:
    locks = "pipedag_airflow.backend.lock.ZooKeeperLockManager"
    return project.config(lock_manager={"class": locks, "args": {"hosts": hosts, **args}})


def flow_with(project: Project, inside: Callable[[], object]) -> Flow:
    @materialize(version="1")
    def one() -> Table[Any]:
        project.call("one")
        inside()
        return Table(pl.DataFrame({"x": [1]}), "one")

    @materialize(version="1", input_type=pl.DataFrame)
    def two(table: pl.DataFrame) -> Table[Any]:
        project.call("two")
        return Table(table * 2, "two")

    with Flow("flow") as flow:
        with Stage("raw"):
            made = one()
        with Stage("mart"):
            two(made)
    return flow


def test_a_flow_has_its_stages_and_gives_them_back(project: Project, zookeeper_server: Ensemble) -> None:
    config = config_at(project, zookeeper_server.hosts)
    held: list[str] = []
    flow = flow_with(project, lambda: held.extend(list_leases(config)))
    with config.lock_manager as locks:
        result = project.run(flow, config=config)
        assert project.called == ["one", "two"]
        (line,) = held
        assert line.startswith(f"raw: run {result.run_id} on host")
        assert project.query("select x from mart.two") == [(2,)]
        project.run(flow, config=config)
        assert project.called == []
        assert locks.leases() == []


def test_a_run_that_loses_zookeeper_ends_with_that_error(
    project: Project,
    zookeeper_server: Ensemble,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """And not with that of giving back what it cannot give back."""
    monkeypatch.setattr(znodes, "ANSWER_SECONDS", 2.0)
    link = zookeeper_server.client_link()
    config = config_at(project, f"127.0.0.1:{link.port}", timeout=1)
    states: list[LockState] = []
    config.lock_manager.add_listener(lambda _stage, _old, new: states.append(new))

    def inside() -> None:
        link.cut()
        until(lambda: LockState.INVALID in states)

    with (
        config.lock_manager,
        pytest.raises(StaleRunError, match=r"lost stage 'raw'.*Who holds .* is not known: .* gave no answer"),
    ):
        project.run(flow_with(project, inside), config=config)
    assert "its stages stay locked until this process ends. Cannot read" in caplog.text
    assert project.query("select live from pipedag_metadata.stage") == [(None,)]
