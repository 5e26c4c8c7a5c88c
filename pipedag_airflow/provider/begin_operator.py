"""The operator that begins a stage, and runs it as a whole if a run asks for that."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException, DownstreamTasksSkipped

from pipedag_airflow.core.plan import BEGIN_TASK
from pipedag_airflow.provider.assets import announce
from pipedag_airflow.provider.form import FLOW, RunOptions
from pipedag_airflow.provider.links import SKIPPED, GenerationLink
from pipedag_airflow.provider.operators import REVISION, StageOperator
from pipedag_airflow.provider.run_operators import StagesOperator
from pipedag_airflow.provider.telling import told_of_skipped

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airflow.sdk import Context
    from airflow.sdk.types import Operator as AnyOperator

    from pipedag_airflow.core.plan import Plan, PlanStage
    from pipedag_airflow.run.begin import StageReport
    from pipedag_airflow.run.session import RunSession

__all__ = ["BeginTransactionOperator"]

log = logging.getLogger(__name__)


class BeginTransactionOperator(StagesOperator):
    """Begins a stage: decides every task that can be decided, and skips the valid ones without a process for any.

    So it skips what the run does not select; of a stage of which nothing is selected, all. If the run asks for larger
    operators than the DAG was built of, it runs the stage with all that is nested in it, or the flow, by itself. A
    begin whose stage another one runs so has nothing to do, unless a user clears it by itself.
    """

    ui_color = "#e3f0ff"
    custom_operator_name = "begin"
    operator_extra_links = (GenerationLink(),)

    def step(self, session: RunSession, context: Context) -> None:
        """Begin the stage; raises Airflow's signal to skip tasks where there are valid or unselected ones."""
        granularity = RunOptions.of(context["params"]).granularity
        runner = self._runner(session.plan, granularity)
        if runner != self.task_id and not self._cleared_alone(runner, context):
            log.info("Stage %s: %s has run it; to run it anew, clear this task alone", self.stage, runner)
            return
        whole = self._whole(session.plan, granularity, runner)
        if whole:
            self._run(whole, session, context)
        else:
            self._begin(session, context)

    def _begin(self, session: RunSession, context: Context) -> None:
        from pipedag_airflow.provider.by_hand import refuse_if_alone, refuse_marked
        from pipedag_airflow.run.begin import begin

        stage = session.plan.stage_by_name[self.stage]
        selected = session.selection.of(stage)
        unselected = [node for node in stage.tasks if node not in selected]
        if not selected:
            log.info("Stage %s: nothing of it is selected", self.stage)
            raise DownstreamTasksSkipped(tasks=[*unselected, *self._own_commit(session)])
        refuse_marked(session, [self.stage], self.dag)
        report = begin(session, self.stage)
        # What a commit that died after its publish could not tell any more.
        announce(session, self.stage, context)
        decisions = {node: str(decision) for node, decision in report.decisions.items()}
        context["ti"].xcom_push(
            "decisions", {"generation": report.generation, "unchanged": report.closed, "tasks": decisions}
        )
        refuse_if_alone(session, stage, report, context["ti"])
        commits = [commit for commit in self._needless_commits(session, report) if not self._awaited(commit)]
        own = [*report.valid, *(commit for commit in commits if session.plan.node_by_id[commit].stage == self.stage)]
        if own:
            told = told_of_skipped(session, report, own, self.dag)
            context["ti"].xcom_push(SKIPPED, told | {REVISION: self._revision(context)})
        skip = [*(node for node in report.valid if not self._awaited(node)), *unselected, *commits]
        log.info("Stage %s: %s of %s tasks are valid", self.stage, len(report.valid), len(decisions))
        if skip:
            raise DownstreamTasksSkipped(tasks=skip)

    def _runner(self, plan: Plan, granularity: str | None) -> str:
        """Return the begin in whose process the stage runs, if the run asks for larger operators; else itself."""
        if granularity is None:
            return self.task_id
        begins = self._begins(stage.name for stage in plan.stages) if granularity == FLOW else []
        return next(iter(begins), self._outermost(plan))

    def _outermost(self, plan: Plan) -> str:
        return self._begins((self.stage, *plan.enclosing(self.stage)))[-1]

    def _begins(self, stages: Iterable[str]) -> list[str]:
        """Return the begins of those stages that have one."""
        return [name for name in (f"{stage}.{BEGIN_TASK}" for stage in stages) if self.dag.has_task(name)]

    def _cleared_alone(self, runner: str, context: Context) -> bool:
        """Say whether a user wants more than what the begin has done that ran the stage.

        That one skips all others but those that operators of the user's own wait for, so the rest was cleared since.
        """
        instance: Any = context["ti"]
        revision = instance.xcom_pull(task_ids=runner, key=REVISION)
        return revision is None or not self._awaited(self.task_id) or self._revision(context) > revision

    def _whole(self, plan: Plan, granularity: str | None, runner: str) -> list[PlanStage]:
        """Return the stages that the run wants it to run in its process; none if that is left as the DAG was built."""
        if granularity == FLOW and runner == self.task_id:
            return list(plan.stages)
        if granularity is None or self._outermost(plan) != self.task_id:
            return []
        return [stage for stage in plan.stages if stage.name == self.stage or plan.is_inside(stage.name, self.stage)]

    def _run(self, stages: list[PlanStage], session: RunSession, context: Context) -> None:
        """Run stages; raises Airflow's signal to skip the operators of which nothing is left to do."""
        names = [name for stage in stages for name in (f"{stage.name}.{BEGIN_TASK}", *stage.tasks, stage.commit)]
        names += [stage.name for stage in stages]
        rest = [self.dag.get_task(name) for name in names if name != self.task_id and self.dag.has_task(name)]
        self._refuse_if_others_come_first(rest)
        selected = [stage for stage in stages if session.selection.of(stage)]
        if selected:
            context["ti"].xcom_push("return_value", self.run_stages(selected, session, context))
        context["ti"].xcom_push(REVISION, self._revision(context))
        raise DownstreamTasksSkipped(tasks=[step.task_id for step in rest if not self._awaited(step.task_id)])

    def _refuse_if_others_come_first(self, steps: Iterable[AnyOperator]) -> None:
        for step in steps:
            for name in sorted(step.upstream_task_ids):
                if not isinstance(self.dag.get_task(name), StageOperator):
                    raise AirflowFailException(
                        f"{step.task_id} waits for {name}, an operator of your own, so {self.task_id} cannot run it by "
                        "itself. Start another run, with the granularity as the DAG was built."
                    )

    def rehearse(self, session: RunSession, context: Context) -> None:
        """Say what the run would do, and skip all of it; where several stages are first, one of them speaks for all."""
        stages = [stage for stage in session.plan.stages if self.dag.has_task(stage.commit)]
        if stages[0].name != self.stage:
            stage = session.plan.stage_by_name[self.stage]
            raise DownstreamTasksSkipped(tasks=[*stage.tasks, stage.commit])
        self.tell_of_all(session, context)

    def _needless_commits(self, session: RunSession, report: StageReport) -> list[str]:
        """Return the commits that have nothing to do."""
        stages = [session.plan.stage_by_name[stage] for stage in report.also_over]
        return [stage.commit for stage in stages if stage.tasks] + (self._own_commit(session) if report.closed else [])

    def _own_commit(self, session: RunSession) -> list[str]:
        """Return the commit of the stage, of which nothing is left to do.

        The commit of a stage with nested ones is left to the last of these: a skipped commit would let consumers go on
        before the nested stages are done, and hide it if one of them fails.
        """
        plan = session.plan
        nested = any(stage.tasks and plan.is_inside(stage.name, self.stage) for stage in plan.stages)
        return [] if nested else [plan.stage_by_name[self.stage].commit]
