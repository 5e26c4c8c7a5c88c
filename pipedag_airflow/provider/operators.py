"""The operators of single steps: each calls one step of the run protocol.

All of them wait for all of their upstream tasks and take success and skipped as good: pink means "valid", and a valid
task never keeps its consumers from running. Results travel through the metadata; XCom carries what a person reads.
"""

from __future__ import annotations

import datetime as dt
import logging
from typing import TYPE_CHECKING, Any, ClassVar

import attrs
from airflow.sdk import BaseOperator, TriggerRule
from airflow.sdk.exceptions import AirflowException, AirflowFailException, AirflowSkipException, DownstreamTasksSkipped

from pipedag_airflow.config.hiding import hidden_secrets
from pipedag_airflow.core.plan import BEGIN_TASK
from pipedag_airflow.errors import (
    ConfigError,
    FailedNodesError,
    InstanceNotFoundError,
    LockError,
    SelectionError,
    StageBusyError,
    StaleRunError,
    StoreError,
)
from pipedag_airflow.provider.assets import announce
from pipedag_airflow.provider.dag_runs import owner_of, parts_of, run_is_over, states_of_run
from pipedag_airflow.provider.form import RunOptions
from pipedag_airflow.provider.links import SKIPPED, DocsLink, GenerationLink, PreviousTablesLink, TablesLink
from pipedag_airflow.provider.telling import shown_publish, shown_task, told_of_finished

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.providers.openlineage.extractors import OperatorLineage
    from airflow.sdk import Context

    from pipedag_airflow.backend.lock import Lease
    from pipedag_airflow.provider.reference import FlowReference
    from pipedag_airflow.run.lineage import Lineage
    from pipedag_airflow.run.session import RunSession

__all__ = [
    "REVISION",
    "CommitTransactionOperator",
    "MaterializeOperator",
    "StageOperator",
    "TransactionOperator",
]

log = logging.getLogger(__name__)

#: What a begin tells of itself: how often it had been cleared, beside the tasks that it skips or after it has run all.
REVISION = "revision"
_OWN_RETRIES = 2
_OWN_RETRY_DELAY = dt.timedelta(seconds=5)


def _final(error: Exception) -> AirflowFailException:
    """Return what tells Airflow not to try again."""
    return AirflowFailException(f"{type(error).__name__}: {error}")


def _mends(error: Exception) -> bool:
    """Say whether another try may mend what is wrong; of several failures, all of them."""
    if isinstance(error, FailedNodesError):
        return all(map(_mends, error.failures.values()))
    return isinstance(error, LockError | StoreError) and not isinstance(error, StaleRunError)


class StageOperator(BaseOperator):
    """What all operators share.

    Args:
        reference: The flow.
        stage: Name of the stage.
        docs_url: Where documents about it are, if anywhere.
        kwargs: Arguments of Airflow's ``BaseOperator``.
    """

    # The flow is the module's own object; a copy of it would be another flow.
    shallow_copy_attrs = ("reference",)
    # Not in the constructor: Airflow takes a look at each attribute that is set, for every task of every parse.
    docs_url: str | None = None
    #: The stage that is waited for while another run has it; None for its own.
    awaited: str | None = None
    #: What the step has read and made; None before there is anything to say.
    lineage: Lineage | None = None

    def __init__(self, *, reference: FlowReference, stage: str, docs_url: str | None = None, **kwargs: Any) -> None:
        # weight_rule: the default walks all descendants of every task when a run is created.
        super().__init__(**{"trigger_rule": TriggerRule.NONE_FAILED, "weight_rule": "absolute"} | kwargs)
        self.reference = reference
        self.stage = stage
        if docs_url is not None:
            self.docs_url = docs_url
            self.operator_extra_links = (*type(self).operator_extra_links, DocsLink())

    def execute(self, context: Context) -> Any:
        """Call the step; while another run holds the stage, wait without a worker slot."""
        return self._execute(context, None)

    def execute_again(self, context: Context, event: Mapping[str, Any]) -> Any:
        """Call the step after waiting; another run may have been faster, then wait on."""
        if event["trouble"] is not None:
            log.warning(
                "The triggerer could not look whether stage %s is free, so this step does: %s",
                event["stage"],
                event["trouble"],
            )
        return self._execute(context, event["since"])

    def _execute(self, context: Context, waiting_since: float | None) -> Any:
        with hidden_secrets():
            try:
                options = self.asked_for(context)
                session = self.session(context, options)
                if options.dry_run:
                    return self.rehearse(session, context)
                if options.fail_fast:
                    self.check_no_failure(session, context)
                try:
                    return self.step(session, context)
                except StageBusyError as busy:
                    self.wait(session, busy, waiting_since)
            except AirflowException:
                raise  # signals of ours
            except Exception as error:
                failure = self.failure(error, context)
                raise failure from (None if failure is error else error)

    def asked_for(self, context: Context) -> RunOptions:
        """Return what the run was asked for."""
        return self.reference.options(context)

    def _awaited(self, node: str) -> bool:
        """Say whether operators of the user's own wait for a step: by Airflow's defaults, they skip with it."""
        after = self.dag.get_task(node).downstream_task_ids
        return not all(isinstance(self.dag.get_task(other), StageOperator) for other in after)

    def _revision(self, context: Context) -> int:
        """Return a number that grows each time that a user clears the task instance: it may use up max_tries anew."""
        instance: Any = context["ti"]
        return int(max(0, instance.max_tries - (self.retries or 0)))

    def failure(self, error: Exception, context: Context) -> Exception:
        """Return what to raise: one of Airflow's exceptions where another try cannot help."""
        del context
        # What the run asks for is the same in every try.
        return _final(error) if isinstance(error, InstanceNotFoundError | SelectionError) else error

    def get_openlineage_facets_on_complete(self, task_instance: Any) -> OperatorLineage[Any, Any] | None:
        """Tell OpenLineage's provider what was read and made; also of a task that failed or turned out to be valid."""
        from pipedag_airflow.provider.lineage import lineage_facets

        del task_instance
        return None if self.lineage is None else lineage_facets(self.lineage)

    def step(self, session: RunSession, context: Context) -> Any:
        """Call the step of the run protocol that the operator stands for."""
        raise NotImplementedError

    def waits_with_it(self, session: RunSession) -> list[str]:
        """Return the names of the stages all of whose steps wait when the operator does; here others do them."""
        del session
        return []

    def kept_while_waiting(self) -> dict[str, Any]:
        """Return what the process after the waiting is to know of this one: further arguments of ``execute_again``."""
        return {}

    def tell_of_all(self, session: RunSession, context: Context) -> None:
        """Say what the run would do, and skip all of it."""
        from pipedag_airflow.run.preview import preview

        decisions = preview(session)
        for node, decision in decisions.items():
            log.info("Dry run: %s %s", node, f"is {decision}" if decision.valid else decision)
        told = {node: str(decision) for node, decision in decisions.items()}
        context["ti"].xcom_push("decisions", {"dry_run": True, "tasks": told})
        ours = [task.task_id for task in self.dag.tasks if isinstance(task, StageOperator)]
        raise DownstreamTasksSkipped(tasks=[node for node in ours if node != self.task_id])

    def rehearse(self, session: RunSession, context: Context) -> None:
        """Do nothing, because the run is a dry one; the first operator of all says what would happen."""
        del session, context
        raise AirflowSkipException(f"{self.task_id}: this is a dry run, in which nothing runs")

    def check_no_failure(self, session: RunSession, context: Context) -> None:
        """Fail before the step if something else of the run has failed, because the run is to fail fast."""
        states = states_of_run(session.run_id, parts_of(session.flow), context["ti"])
        failed = sorted(node for node, state in states.items() if state == "failed" and node != self.task_id)
        if failed:
            raise AirflowFailException(
                f"{self.task_id} was not begun: {', '.join(failed)} failed before, and the run is to fail fast. Clear "
                "what failed, with this; of a flow that is split, the stages in its DAG."
            )

    def wait(self, session: RunSession, busy: StageBusyError, since: float | None) -> None:
        """Defer until the stage is free, and it is this run's turn."""
        from airflow.sdk.execution_time.task_runner import RuntimeTaskInstance

        from pipedag_airflow.provider.dag_runs import stages_kept_to_the_end
        from pipedag_airflow.provider.triggers import StageFreeTrigger, seconds_until_heard
        from pipedag_airflow.run.waiting import wait_for

        stage, parts, nested = self.awaited or self.stage, parts_of(session.flow), session.plan.nested()
        failed = stages_kept_to_the_end(session.run_id, parts, nested, RuntimeTaskInstance)
        still = {*self.waits_with_it(session), *failed}
        try:
            place = wait_for(session, stage, busy, still=still, since=since)
        except StageBusyError as error:
            raise _final(error) from error
        log.warning("Waiting for stage %s: %s", stage, busy)
        folder = self.reference.folder
        trigger = StageFreeTrigger(
            flow=self.reference.flow.name,
            folder=None if folder is None else str(folder),
            instance=self.reference.instance,
            stage=stage,
            run_id=session.run_id,
            since=place.since,
            keeps=place.keeps,
            source=session.config.source,
            instance_id=session.config.instance_id,
            token=place.token,
            parts=parts,
            nested=nested,
            after=seconds_until_heard(),
        )
        self.defer(trigger=trigger, method_name="execute_again", kwargs=self.kept_while_waiting())

    def session(self, context: Context, options: RunOptions) -> RunSession:
        """Return the run that the task instance belongs to, as it was asked for."""
        from pipedag_airflow.run.session import RunSession

        instance: Any = context["ti"]
        # The run's own instance is where its data are, and where a trigger waits.
        self.reference = attrs.evolve(self.reference, instance=options.instance)
        config = self.reference.config()
        try:
            config = options.configured(config)
        except ConfigError as error:
            raise AirflowFailException(str(error)) from error

        def is_over(lease: Lease) -> bool:
            return run_is_over(lease, instance, config.lock_manager.now)

        owner = owner_of(self.reference, instance, options)
        flow = self.reference.flow
        selection = self.reference.asked_for(options).selection(flow.plan())
        return RunSession(flow, config, owner, engine="Airflow", is_over=is_over, selection=selection)


class TransactionOperator(StageOperator):
    """What all but single tasks share: they may be executed any number of times, so they have retries of their own.

    Airflow fails a task that it takes for dead, for example when it hears of the end of a process that deferred only
    after the task has been resumed. A failure that another try does not mend, or that comes from the user's code, is
    retried as often as the user asks for.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        #: How often a failure that is not ours is retried.
        self.users_retries = self.retries or 0
        if self.users_retries < _OWN_RETRIES:
            self.retries = _OWN_RETRIES
        if self.users_retries == 0:
            self.retry_delay = _OWN_RETRY_DELAY

    def failure(self, error: Exception, context: Context) -> Exception:
        """Return what to raise: what another try may mend, and what the user wants to be tried again, as it is."""
        final = super().failure(error, context)
        if final is not error:
            return final
        instance: Any = context["ti"]
        # Clearing grants all tries anew.
        tries = instance.try_number - max(0, instance.max_tries - (self.retries or 0))
        return error if _mends(error) or tries <= self.users_retries else _final(error)


class MaterializeOperator(StageOperator):
    """Executes one task of the user's. One that the run does not select stays skipped, even when a user clears it.

    Its rendered fields are what the task read and the queries that it made, as soon as they are known.
    """

    ui_color = "#f4fbe8"
    custom_operator_name = "materialize"
    operator_extra_links = (TablesLink(), PreviousTablesLink(), GenerationLink())
    template_fields = ("inputs", "sql")
    template_fields_renderers: ClassVar[dict[str, str]] = {"inputs": "json", "sql": "sql"}
    # They are empty until the task has begun: nothing of them is in the DAG, and no text of the user's is a template.
    overwrite_rtif_after_execution = True
    # Not in a constructor: one more in the line costs Airflow a look at all defaults, for every task of every parse.
    inputs: dict[str, Any] | None = None
    sql: str | None = None
    previous_run: str | None = None

    def step(self, session: RunSession, context: Context) -> dict[str, Any]:
        """Execute the task; raises Airflow's signal for "skipped" if it turns out to be valid."""
        from pipedag_airflow.provider.by_hand import publish_if_alone
        from pipedag_airflow.provider.watching import OperatorWatcher
        from pipedag_airflow.run.execute import execute

        if self.task_id not in session.selection.tasks:
            raise AirflowSkipException(f"{self.task_id} is not selected in this run: trigger another run for it")
        instance: Any = context["ti"]
        awaited = self._awaited(self.task_id)
        found = self._found_by_begin(session, context) if awaited else None
        if found is not None:
            log.info(
                "%s is done, by a begin; it is not skipped, as operators of the user's own wait for it", self.task_id
            )
            return found
        session.watcher = OperatorWatcher(self, instance)
        report = execute(session, self.task_id, revision=self._revision(context))
        if report.reopened:
            publish_if_alone(session, session.plan.stage_by_name[self.stage], self.task_id, instance)
        shown = shown_task(report)
        if report.decision.valid and not awaited:
            # Airflow keeps no result of a skipped task by itself.
            instance.xcom_push("return_value", shown)
            raise AirflowSkipException(f"{self.task_id} is {report.decision}")
        return shown

    def _found_by_begin(self, session: RunSession, context: Context) -> dict[str, Any] | None:
        """Return what a begin has found or made of the task, unless the task has been cleared by itself since."""
        instance: Any = context["ti"]
        if RunOptions.of(context["params"]).granularity is not None and not self._revision(context):
            return told_of_finished(session, self.task_id)
        told: dict[str, Any] = instance.xcom_pull(task_ids=f"{self.stage}.{BEGIN_TASK}", key=SKIPPED) or {}
        return told.get(self.task_id) if told.get(REVISION) == self._revision(context) else None


class CommitTransactionOperator(TransactionOperator):
    """Publishes a stage, if the run selects it as a whole."""

    ui_color = "#d9f2d9"
    custom_operator_name = "commit"
    operator_extra_links = (GenerationLink(),)

    def step(self, session: RunSession, context: Context) -> dict[str, Any]:
        """Publish the stage; raises Airflow's signal for "skipped" if only parts of it are selected."""
        from pipedag_airflow.run.abandon import set_aside
        from pipedag_airflow.run.lineage import Lineage
        from pipedag_airflow.run.publish import publish

        if self.stage not in session.selection.stages:
            set_aside(session, self.stage)
            raise AirflowSkipException(f"Stage {self.stage} is not selected as a whole: nothing of it is published")
        report = publish(session, self.stage)
        self.lineage = Lineage()
        self.lineage.makes(session.store, report.tables)
        announce(session, self.stage, context)
        return shown_publish(report)
