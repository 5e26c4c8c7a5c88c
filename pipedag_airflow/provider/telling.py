"""What steps tell in XCom of tasks and stages, for a person to read.

Tasks that begin skips have no process that could tell anything: begin does it for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pipedag_airflow.backend.metadata import GenerationState, ObjectKind

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow.sdk import DAG

    from pipedag_airflow.backend.metadata import TaskRecord
    from pipedag_airflow.run.begin import StageReport
    from pipedag_airflow.run.execute import TaskReport
    from pipedag_airflow.run.publish import PublishReport
    from pipedag_airflow.run.session import RunSession

__all__ = ["shown_begin", "shown_publish", "shown_task", "told_of_finished", "told_of_skipped"]


def shown_task(report: TaskReport) -> dict[str, Any]:
    """Return what became of a task, for a person to read."""
    tables = {name: {"schema": schema, "rows": rows} for name, schema, rows in report.tables}
    return {"reason": report.decision.reason.value, "tables": tables, "seconds": round(report.seconds or 0, 3)}


def shown_begin(report: StageReport) -> dict[str, Any]:
    """Return what the begin of a stage has decided, for a person to read."""
    decisions = {node: str(decision) for node, decision in report.decisions.items()}
    return {"generation": report.generation, "unchanged": report.closed, "tasks": decisions}


def shown_publish(report: PublishReport) -> dict[str, Any]:
    """Return what became of a stage, for a person to read."""
    names = ("changed", "removed", "executed", "valid")
    return {"generation": report.generation} | {name: list(getattr(report, name)) for name in names}


def told_of_skipped(session: RunSession, report: StageReport, skipped: Iterable[str], dag: DAG) -> dict[str, Any]:
    """Return by task id what the links of skipped tasks are made of, and a person may read.

    Args:
        session: The run.
        report: What begin found.
        skipped: Ids of the valid tasks, and of the commit if that is skipped.
        dag: The DAG.

    Returns:
        For each task its tables, ``made_by``, the run that made them, ``published_by``, the run whose commit says what
        readers see of the stage, and ``docs``, where its documents are; each only if there is such a thing.
    """
    made_in = {node: report.rows[node].produced_by for node in skipped if node in report.rows}
    shown_in = report.live if report.closed else None
    numbers = {number for number in (*made_in.values(), shown_in) if number is not None}
    with session.store.transaction() as transaction:
        runs = transaction.metadata.runs_of(report.stage, numbers)
    published_by = session.run_id if shown_in is None else runs.get(shown_in)
    told = {}
    for node in skipped:
        facts = {"published_by": published_by, "docs": getattr(dag.get_task(node), "docs_url", None)}
        if node in report.rows:
            facts |= {"tables": _tables(report.rows[node]), "made_by": runs.get(made_in[node] or 0)}
        told[node] = {name: fact for name, fact in facts.items() if fact is not None}
    return told


def told_of_finished(session: RunSession, node: str) -> dict[str, Any] | None:
    """Return what became of a task in a process that ran its whole stage; None if that has no result of it."""
    stage = session.flow.tasks[node].stage.name
    with session.store.transaction() as transaction:
        metadata = transaction.metadata
        newest = metadata.latest_generation(stage, session.run_id)
        if newest is None:
            return None
        unchanged = newest.state is GenerationState.UNCHANGED
        shown = metadata.stages([stage])[stage].live if unchanged else newest.number
        rows = metadata.read_tasks([(stage, shown)])
    found = (row for row in rows if row.node == node and row.state.has_output)
    return next(({"reason": row.reason, "tables": _tables(row)} for row in found), None)


def _tables(row: TaskRecord) -> dict[str, Any]:
    tables = (stored for stored in row.objects if stored.kind is ObjectKind.TABLE)
    return {table.name: {"schema": table.container, "rows": table.rows} for table in tables}
