"""``flow.run()``: find the configuration, let the engine run the plan, return the result."""

from __future__ import annotations

import logging
import uuid
from functools import partial
from typing import TYPE_CHECKING, Any

from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.config import CacheValidationMode, ConfigContext, PipedagConfig
from pipedag_airflow.config.cache_validation import combined_mode
from pipedag_airflow.core.selector import select
from pipedag_airflow.core.task import Task, TaskGetItem
from pipedag_airflow.errors import ConfigError, LockError, RunError
from pipedag_airflow.run.abandon import abandon
from pipedag_airflow.run.heartbeat import RunHeartbeat
from pipedag_airflow.run.loading import load, published_value
from pipedag_airflow.run.lock_context import StageLockContext
from pipedag_airflow.run.overrides import overrides_of
from pipedag_airflow.run.result import Result
from pipedag_airflow.run.session import RunSession

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipedag_airflow.backend.lock import Lease
    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.engine.base import OrchestrationEngine

__all__ = ["find_config", "launch", "output_from_store", "with_validation"]

log = logging.getLogger(__name__)


def launch(
    flow: Flow,
    components: Sequence[Any],
    *,
    exclude: Any,
    inputs: Mapping[Any, Any] | None,
    config: ConfigContext | None,
    engine: OrchestrationEngine | None,
    fail_fast: bool | None,
    ignore_cache_function: bool,
    cache_validation_mode: CacheValidationMode | str | None,
    ignore_task_version: bool | None,
    engine_arguments: Mapping[str, Any],
) -> Result:
    """Run a flow in this process; see :meth:`Flow.run` for the arguments."""
    config = find_config(flow, config)
    if fail_fast is not None:
        config = config.evolve(fail_fast=fail_fast)
    config = with_validation(config, cache_validation_mode, ignore_cache_function, ignore_task_version)
    engine = engine or config.create_orchestration_engine()
    assert engine is not None
    engine.check_arguments(engine_arguments)
    selection = select(flow.plan(), components, exclude)
    session = RunSession(
        flow,
        config,
        Owner.this_process(f"local:{uuid.uuid4()}"),
        engine=type(engine).__name__,
        is_over=partial(_is_over, config),
        keeps_stages=StageLockContext.is_open(),
        selection=selection,
        overrides=overrides_of(flow, selection, inputs),
    )
    nodes = selection.nodes(flow.plan())
    heartbeat = RunHeartbeat(session.locks, session.owner, session.lease_seconds)
    heartbeat.start()
    try:
        outcome = engine.run(session, nodes, **engine_arguments)
    finally:
        _let_go(session, heartbeat)
    raises = config.fail_fast and not config.swallow_exceptions
    if outcome.exception is not None and raises:
        raise outcome.exception
    if not outcome.successful and raises:
        raise RunError(f"The run of flow {flow.name!r} was not successful; the log says why.")
    return Result(
        flow=flow,
        subflow=nodes,
        underlying=outcome.underlying,
        successful=outcome.successful,
        config_context=config,
        task_values={flow.tasks[node]: value for node, value in outcome.values.items()},
        task_states={flow.tasks[node]: state for node, state in outcome.states.items()},
        exception=outcome.exception,
        run_id=session.run_id,
        decisions={flow.tasks[node]: decision for node, decision in outcome.decisions.items()},
    )


def find_config(flow: Flow, config: ConfigContext | None = None) -> ConfigContext:
    """Return the configuration: the given one, else the open context, else what is found from the flow's folder up."""
    if config is not None:
        return config
    try:
        return ConfigContext.get()
    except LookupError:
        folder = flow.file.parent if flow.file is not None else None
        return PipedagConfig.find(folder).get(flow=flow.name)


def output_from_store(reference: Task | TaskGetItem, as_type: Any, write_local_table_cache: bool) -> Any:
    """Return what is published of a task; see :meth:`Task.get_output_from_store`."""
    task = reference.task if isinstance(reference, TaskGetItem) else reference
    config = find_config(task.flow)
    return load(config, reference, published_value(config, task), as_type, write_local_table_cache)


def with_validation(
    config: ConfigContext,
    mode: CacheValidationMode | str | None,
    ignore_cache_function: bool,
    ignore_task_version: bool | None,
    place: str = "flow.run()",
) -> ConfigContext:
    """Let what a run says about validity take the place of what the configuration says.

    Args:
        config: The configuration.
        mode: The mode; None for that of the configuration.
        ignore_cache_function: The same as the mode ``IGNORE_FRESH_INPUT``.
        ignore_task_version: Whether tasks run although their versions are unchanged; None for what is configured.
        place: Who says so, for messages.

    Raises:
        ConfigError: if it is unknown, or contradicts itself.
    """
    if ignore_task_version is not None:
        config = config.evolve(ignore_task_version=ignore_task_version)
    if mode is None and not ignore_cache_function:
        return config.evolve(cache_validation_mode=config.effective_mode)
    chosen = CacheValidationMode.IGNORE_FRESH_INPUT if mode is None else _mode(mode)
    if ignore_cache_function and chosen is CacheValidationMode.NORMAL:
        raise ConfigError(
            f"{place} got cache_validation_mode='normal' and ignore_cache_function=True, which means "
            "'ignore_fresh_input'. Give only one of them."
        )
    chosen = combined_mode(chosen, ignore_cache_function=ignore_cache_function, force_task_execution=False, place=place)
    return config.evolve(cache_validation_mode=chosen, ignore_cache_function=False, force_task_execution=False)


def _mode(mode: CacheValidationMode | str) -> CacheValidationMode:
    try:
        return CacheValidationMode(mode.lower())
    except ValueError:
        known = ", ".join(CacheValidationMode)
        raise ConfigError(f"cache_validation_mode is {mode!r}, but must be one of {known}.") from None


def _is_over(config: ConfigContext, lease: Lease) -> bool:
    """Say whether the run that holds a lease has ended, as far as a local run can know.

    It cannot ask Airflow. There each step of a DAG run renews the lease for as long as it works, and a run that has
    failed gives it back; what is left are runs that were deleted or marked, and those of an Airflow that is gone.
    """
    silent = lease.owner.pid is None and lease.is_silent(config.lock_manager.now())
    return silent or StageLockContext.has_ended(lease)


def _let_go(session: RunSession, heartbeat: RunHeartbeat) -> None:
    """Abandon what was begun but not published, and release the leases, or leave that to an open StageLockContext.

    What became of the run does not depend on it: if the locks cannot be reached, that is said in the log.
    """
    stages = [stage.name for stage in session.plan.stages if session.selection.of(stage)]

    def release() -> None:
        heartbeat.stop()
        try:
            for stage in stages:
                lease = session.locks.holder(stage)
                ours = lease is not None and lease.owner.run_id == session.run_id
                if ours or not session.locks.guards:
                    abandon(session, stage)
        except LockError as error:
            log.error("Run %s is over, but its stages stay locked until this process ends. %s", session.run_id, error)

    if session.keeps_stages:
        StageLockContext.get().keep(session.run_id, release)
    else:
        release()
