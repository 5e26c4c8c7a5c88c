"""The three operators: each calls one step of the run protocol.

All of them wait for all of their upstream tasks and take success and skipped as good: pink means "valid", and a valid
task never keeps its consumers from running. Results travel through the metadata; XCom carries what a person reads.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING, Any

import attrs
from airflow.sdk import BaseOperator, TriggerRule
from airflow.sdk.exceptions import AirflowSkipException, DownstreamTasksSkipped

from pipedag_airflow.backend.lock import Lease, Owner
from pipedag_airflow.config import PipedagConfig
from pipedag_airflow.errors import StageBusyError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from airflow.sdk import Context

    from pipedag_airflow.config import ConfigContext
    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.run.begin import StageReport
    from pipedag_airflow.run.session import RunSession

__all__ = ["BeginTransactionOperator", "CommitTransactionOperator", "FlowReference", "MaterializeOperator"]

log = logging.getLogger(__name__)

_AIRFLOW_RUN = "airflow:"


@attrs.frozen
class FlowReference:
    """The flow of an operator and the instance that it runs in."""

    flow: Flow
    instance: str | None

    @property
    def folder(self) -> Path | None:
        """The folder from which pipedag.yaml is looked for."""
        return self.flow.file.parent if self.flow.file is not None else None

    def config(self) -> ConfigContext:
        """Return the configuration; secrets are read here, in the worker, and not when the file is parsed."""
        return PipedagConfig.find(self.folder).get(instance=self.instance, flow=self.flow.name)


class StageOperator(BaseOperator):
    """What the three operators share.

    Args:
        reference: The flow.
        stage: Name of the stage.
        kwargs: Arguments of Airflow's ``BaseOperator``.
    """

    # The flow is the module's own object; a copy of it would be another flow.
    shallow_copy_attrs = ("reference",)

    def __init__(self, *, reference: FlowReference, stage: str, **kwargs: Any) -> None:
        # weight_rule: the default walks all descendants of every task when a run is created.
        super().__init__(**{"trigger_rule": TriggerRule.NONE_FAILED, "weight_rule": "absolute"} | kwargs)
        self.reference = reference
        self.stage = stage

    def execute(self, context: Context) -> Any:
        """Call the step; while another run holds the stage, wait without a worker slot."""
        try:
            return self.step(self.session(context), context)
        except StageBusyError as busy:
            self.wait(busy)

    def execute_again(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Call the step after waiting; another run may have been faster, then wait on."""
        del event
        return self.execute(context)

    def step(self, session: RunSession, context: Context) -> Any:
        """Call the step of the run protocol that the operator stands for."""
        raise NotImplementedError

    def wait(self, busy: StageBusyError) -> None:
        """Defer until the stage is free."""
        from pipedag_airflow.provider.triggers import StageFreeTrigger

        log.warning("Waiting for stage %s: %s", self.stage, busy)
        folder = self.reference.folder
        trigger = StageFreeTrigger(
            flow=self.reference.flow.name,
            folder=None if folder is None else str(folder),
            instance=self.reference.instance,
            stage=self.stage,
        )
        self.defer(trigger=trigger, method_name="execute_again")

    def session(self, context: Context) -> RunSession:
        """Return the run that the task instance belongs to."""
        from pipedag_airflow.run.session import RunSession

        instance: Any = context["ti"]

        def is_over(lease: Lease) -> bool:
            return _run_is_over(lease, instance)

        owner = Owner.of_run(f"{_AIRFLOW_RUN}{instance.dag_id}/{instance.run_id}")
        return RunSession(self.reference.flow, self.reference.config(), owner, engine="Airflow", is_over=is_over)


def _run_is_over(lease: Lease, instance: Any) -> bool:
    """Say whether the DAG run that holds a lease has ended.

    Its lease may be taken over even before it expired: the fence keeps what still runs of it from writing.
    """
    if not lease.owner.run_id.startswith(_AIRFLOW_RUN):
        return False
    dag_id, _, run_id = lease.owner.run_id.removeprefix(_AIRFLOW_RUN).partition("/")
    try:
        state = instance.get_dagrun_state(dag_id, run_id)
    except Exception as error:
        # The API knows no such run: deleted, or of another Airflow that shares the instance. Then the clock decides.
        log.info("The state of DAG run %s/%s is not known: %s", dag_id, run_id, error)
        return lease.expires < time.time()
    # A member of an enumeration of strings: it equals its value, but str() of it does not.
    return state in ("success", "failed")


class BeginTransactionOperator(StageOperator):
    """Begins a stage: decides every task that can be decided, and skips the valid ones without a process for any."""

    ui_color = "#e3f0ff"
    custom_operator_name = "begin"

    def step(self, session: RunSession, context: Context) -> None:
        """Begin the stage; raises Airflow's signal to skip tasks where there are valid ones."""
        from pipedag_airflow.run.begin import begin

        report = begin(session, self.stage)
        decisions = {node: str(decision) for node, decision in report.decisions.items()}
        context["ti"].xcom_push(
            "decisions", {"generation": report.generation, "unchanged": report.closed, "tasks": decisions}
        )
        skip = [*report.valid, *self._needless_commits(session, report)]
        log.info("Stage %s: %s of %s tasks are valid", self.stage, len(report.valid), len(decisions))
        if skip:
            raise DownstreamTasksSkipped(tasks=skip)

    def _needless_commits(self, session: RunSession, report: StageReport) -> list[str]:
        """Return the commits that have nothing to do.

        The commit of a stage with nested ones is left to the last of these: a skipped commit would let consumers go on
        before the nested stages are done, and hide it if one of them fails.
        """
        plan = session.plan
        over = list(report.also_over)
        if report.closed and not any(stage.tasks and plan.is_inside(stage.name, self.stage) for stage in plan.stages):
            over.append(self.stage)
        return [plan.stage_by_name[stage].commit for stage in over if plan.stage_by_name[stage].tasks]


class MaterializeOperator(StageOperator):
    """Executes one task of the user's."""

    ui_color = "#f4fbe8"
    custom_operator_name = "materialize"

    def step(self, session: RunSession, context: Context) -> dict[str, Any]:
        """Execute the task; raises Airflow's signal for "skipped" if it turns out to be valid."""
        from pipedag_airflow.run.execute import execute

        instance: Any = context["ti"]
        # A cleared task may use up max_tries anew, so this grows with each time that a user clears it.
        revision = max(0, instance.max_tries - (self.retries or 0))
        report = execute(session, self.task_id, revision=revision)
        if report.decision.valid:
            raise AirflowSkipException(f"{self.task_id} is {report.decision}")
        tables = {name: {"schema": schema, "rows": rows} for name, schema, rows in report.tables}
        return {"reason": report.decision.reason.value, "tables": tables, "seconds": round(report.seconds or 0, 3)}


class CommitTransactionOperator(StageOperator):
    """Publishes a stage."""

    ui_color = "#d9f2d9"
    custom_operator_name = "commit"

    def step(self, session: RunSession, context: Context) -> dict[str, Any]:
        """Publish the stage."""
        del context
        from pipedag_airflow.run.publish import publish

        report = publish(session, self.stage)
        return {"generation": report.generation, "changed": list(report.changed), "removed": list(report.removed)}
