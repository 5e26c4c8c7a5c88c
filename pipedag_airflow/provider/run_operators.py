"""The operators that run several steps in one process: a stage with all that is nested in it, or a whole flow.

They call the steps that the operators of single steps call, in the loop of ``flow.run()``, so results, cache and
guarantees are the same. What a process that died had finished is found valid by the next try.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, ClassVar

from airflow.sdk.exceptions import AirflowSkipException

from pipedag_airflow.errors import StageBusyError
from pipedag_airflow.provider.assets import announce
from pipedag_airflow.provider.form import RunOptions
from pipedag_airflow.provider.granularity import Unit
from pipedag_airflow.provider.links import TablesLink
from pipedag_airflow.provider.operators import TransactionOperator
from pipedag_airflow.provider.stages_run import StagesRun
from pipedag_airflow.run.abandon import set_aside

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from airflow.sdk import BaseOperatorLink, Context

    from pipedag_airflow.core.plan import Plan, PlanStage
    from pipedag_airflow.run.session import RunSession

__all__ = ["FlowRunOperator", "StageRunOperator", "StagesOperator"]

log = logging.getLogger(__name__)


class StagesOperator(TransactionOperator):
    """What may run stages as a whole, each from its begin to its commit.

    When a task fails, what does not need it goes on; then the operator fails, and the stage is not published. While
    another run holds a stage, it waits without a worker slot.
    """

    inputs: dict[str, Any] | None = None
    sql: str | None = None
    #: The stages that this try had done before it waited.
    over: Sequence[str] = ()
    _running: Sequence[str] = ()
    _waited_for: str | None = None

    def execute_again(self, context: Context, event: Mapping[str, Any], over: Sequence[str] = ()) -> Any:
        """Go on after waiting, with the stages that are not over."""
        self.over, self._waited_for = over, event["stage"]
        return super().execute_again(context, event)

    def wait(self, session: RunSession, busy: StageBusyError, since: float | None) -> None:
        """Defer until the stage that is busy is free."""
        super().wait(session, busy, since if (self.awaited or self.stage) == self._waited_for else None)

    def waits_with_it(self, session: RunSession) -> list[str]:
        """Return the names of the stages that it runs as a whole."""
        del session
        return list(self._running)

    def kept_while_waiting(self) -> dict[str, Any]:
        """Return what the next process is to know: done stages are not begun again."""
        return {"over": list(self.over)}

    def run_stages(self, stages: Sequence[PlanStage], session: RunSession, context: Context) -> dict[str, Any]:
        """Run what is selected of stages, and return what was made and published, for a person to read."""
        from pipedag_airflow.provider.by_hand import refuse_marked
        from pipedag_airflow.provider.watching import StagesWatcher

        plan, selection = session.plan, session.selection
        self._running = [stage.name for stage in stages]
        refuse_marked(session, self._running, self.dag)
        names = set(self._running).difference(self.over)
        nodes = [node for node in selection.nodes(plan) if plan.node_by_id[node].stage in names]
        session.watcher = watcher = StagesWatcher(self, self._running)
        run = StagesRun(session, nodes, fail_fast=RunOptions.of(context["params"]).fail_fast)
        run.watcher = watcher
        try:
            run.run()
        except StageBusyError:
            self.awaited, self.over = run.at.stage, [*self.over, *run.over]
            raise
        for report in run.published.values():
            watcher.lineage.makes(session.store, report.tables)
        context["ti"].xcom_push("decisions", run.decisions())
        if run.failures:
            raise run.failure(self.task_id)
        for name in self._running:
            if name not in selection.stages:
                set_aside(session, name)
                log.info("Stage %s is not selected as a whole: nothing of it is published", name)
            announce(session, name, context)
        return run.told()


class StageRunOperator(StagesOperator):
    """Runs a stage with all that is nested in it: begin, tasks, commit."""

    ui_color = "#f4fbe8"
    custom_operator_name = "stage"
    operator_extra_links: Collection[BaseOperatorLink] = (TablesLink(),)
    template_fields: Sequence[str] = ("inputs", "sql")
    template_fields_renderers: ClassVar[dict[str, str]] = {"inputs": "json", "sql": "sql"}
    # As those of a single task; here they are by task.
    overwrite_rtif_after_execution = True

    def stages(self, plan: Plan) -> list[PlanStage]:
        """Return the stages that it runs."""
        return [stage for stage in plan.stages if stage.name == self.stage or plan.is_inside(stage.name, self.stage)]

    def rehearse(self, session: RunSession, context: Context) -> None:
        """Say what the run would do if this is the first operator of all in its DAG."""
        part = self.reference.part
        in_dag = session.plan.stages if part is None else Unit.of(session.plan, session.plan.stage_by_name[part]).stages
        first = next(stage for stage in in_dag if stage.tasks)
        if first not in self.stages(session.plan):
            super().rehearse(session, context)
        self.tell_of_all(session, context)

    def step(self, session: RunSession, context: Context) -> dict[str, Any]:
        """Run what is selected of the stages."""
        selected = [stage for stage in self.stages(session.plan) if session.selection.of(stage)]
        if not selected:
            raise AirflowSkipException(f"{self.task_id}: nothing of it is selected in this run")
        return self.run_stages(selected, session, context)


class FlowRunOperator(StageRunOperator):
    """Runs a whole flow. Its ``stage`` is the one that is begun first."""

    custom_operator_name = "flow"

    def stages(self, plan: Plan) -> list[PlanStage]:
        """Return all stages."""
        return list(plan.stages)
