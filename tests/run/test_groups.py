"""Ordering barriers in runs."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa

from pipedag_airflow import Flow, GroupNode, Stage, Table, materialize
from pipedag_airflow.run.begin import begin

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import Project


def side_effects(project: Project, file: Path, text: str, *, grouped: bool = True, fail: bool = False) -> Flow:
    """A task that writes a file, and behind a barrier one that reads it, though nothing passes between the two."""

    @materialize(version=text)
    def writes() -> None:
        project.call("writes")
        if fail:
            raise OSError("the disk is full")
        file.write_text(text)

    @materialize(version="1", cache=lambda: file.read_text() if file.exists() else "")
    def reads() -> str:
        project.call("reads")
        return file.read_text()

    @materialize(lazy=True)
    def queries() -> Table[Any]:
        project.call("queries")
        return Table(sa.text(f"SELECT '{file.read_text()}' AS x"), "queried")

    with Flow("files") as flow, Stage("s"):
        writes()
        with GroupNode("reading", ordering_barrier=True) if grouped else nullcontext():
            reads()
            queries()
    return flow


@pytest.mark.databases("duckdb", "postgres")
def test_what_stands_behind_a_barrier_is_decided_when_what_stands_before_it_is_done(
    project: Project, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    for text in ("one", "two"):
        flow = side_effects(project, file, text)
        result = project.run(flow)
        # Not even the cache function of the one and the query of the other are looked at in begin.
        assert project.called == ["writes", "reads", "queries"]
        assert result.get(flow["s"]["reads"]) == text
        assert project.query("select * from s.queried") == [(text,)]

    result = project.run(side_effects(project, file, "two"))
    assert project.called == ["queries"]  # a lazy task's function is called in every run
    assert {decision.valid for decision in result.decisions.values()} == {True}


def test_a_barrier_says_what_it_waits_for(project: Project, tmp_path: Path) -> None:
    flow = side_effects(project, tmp_path / "file", "one")
    report = begin(project.session(flow), "s")
    assert str(report.decisions["s.reads"]) == "runs (inputs_open): waits for s.writes"


def test_without_fail_fast_nothing_behind_a_barrier_runs_if_something_before_it_failed(
    project: Project, tmp_path: Path
) -> None:
    flow = side_effects(project, tmp_path / "file", "one", fail=True)
    result = project.run(flow, fail_fast=False)
    assert project.called == ["writes"]
    assert not result.successful


@pytest.mark.databases("duckdb", "postgres")
def test_a_group_that_goes_makes_nothing_run(project: Project, tmp_path: Path) -> None:
    project.run(side_effects(project, tmp_path / "file", "one"))
    result = project.run(side_effects(project, tmp_path / "file", "one", grouped=False))
    assert {decision.valid for decision in result.decisions.values()} == {True}
