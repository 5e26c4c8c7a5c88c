"""``flow.run()``: find the configuration, let the engine run the plan, return the result."""

from __future__ import annotations

import logging
import uuid
from typing import TYPE_CHECKING, Any

from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.config import CacheValidationMode, ConfigContext, PipedagConfig
from pipedag_airflow.config.cache_validation import combined_mode
from pipedag_airflow.core.plan import NodeKind, Plan
from pipedag_airflow.core.stage import Stage
from pipedag_airflow.errors import ConfigError, FlowError, RunError
from pipedag_airflow.run.abandon import abandon
from pipedag_airflow.run.lock_context import StageLockContext
from pipedag_airflow.run.result import Result
from pipedag_airflow.run.session import RunSession

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.engine.base import OrchestrationEngine

__all__ = ["find_config", "launch", "selected_nodes"]

log = logging.getLogger(__name__)


def launch(
    flow: Flow,
    components: Sequence[Any],
    *,
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
    config = _with_validation(config, cache_validation_mode, ignore_cache_function, ignore_task_version)
    engine = engine or config.create_orchestration_engine()
    assert engine is not None
    engine.check_arguments(engine_arguments)
    session = RunSession(
        flow,
        config,
        Owner.this_process(f"local:{uuid.uuid4()}"),
        engine=type(engine).__name__,
    )
    nodes = selected_nodes(flow.plan(), components)
    try:
        outcome = engine.run(session, nodes, **engine_arguments)
    finally:
        _let_go(session, nodes)
    if outcome.exception is not None and config.fail_fast:
        raise outcome.exception
    if not outcome.successful and config.fail_fast:
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


def _with_validation(
    config: ConfigContext,
    mode: CacheValidationMode | str | None,
    ignore_cache_function: bool,
    ignore_task_version: bool | None,
) -> ConfigContext:
    """Let what a run says about validity take the place of what the configuration says.

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
            "flow.run() got cache_validation_mode='normal' and ignore_cache_function=True, which means "
            "'ignore_fresh_input'. Give only one of them."
        )
    chosen = combined_mode(
        chosen, ignore_cache_function=ignore_cache_function, force_task_execution=False, place="flow.run()"
    )
    return config.evolve(cache_validation_mode=chosen, ignore_cache_function=False, force_task_execution=False)


def _mode(mode: CacheValidationMode | str) -> CacheValidationMode:
    try:
        return CacheValidationMode(mode.lower())
    except ValueError:
        known = ", ".join(CacheValidationMode)
        raise ConfigError(f"cache_validation_mode is {mode!r}, but must be one of {known}.") from None


def selected_nodes(plan: Plan, components: Sequence[Any]) -> tuple[str, ...]:
    """Return the ids of the nodes to run, in plan order: those of the given stages and of all nested in them, or all.

    Raises:
        TypeError: if a component is not a stage.
        FlowError: if a stage is of another flow.
    """
    if not components:
        return tuple(node.id for node in plan.nodes)
    chosen = set()
    for component in components:
        if not isinstance(component, Stage):
            raise TypeError(
                f"Select stages of the flow, not {component!r}: single tasks cannot be run by themselves yet."
            )
        if component.flow is None or component.flow.name != plan.flow or component.name not in plan.stage_by_name:
            raise FlowError(f"The stage {component.name!r} is not one of flow {plan.flow!r}.")
        chosen.add(component.name)
    return tuple(
        node.id for node in plan.nodes if node.stage in chosen or chosen.intersection(plan.enclosing(node.stage))
    )


def _let_go(session: RunSession, nodes: Sequence[str]) -> None:
    """Abandon what was begun but not published, and release the leases, or leave that to an open StageLockContext."""
    plan = session.plan
    stages = [plan.node_by_id[node].stage for node in nodes if plan.node_by_id[node].kind is NodeKind.COMMIT]

    def release() -> None:
        for stage in stages:
            lease = session.locks.holder(stage)
            if lease is not None and lease.owner.run_id == session.run_id:
                abandon(session, stage)

    if StageLockContext.is_open():
        StageLockContext.get().at_exit(release)
    else:
        release()
