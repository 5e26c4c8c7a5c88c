"""``pipedag-airflow run FLOW_FILE``: run a flow, or a part of it, here and now."""

from __future__ import annotations

import importlib.util
import logging
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.run.result import Result

__all__ = ["register"]

_SELECTION = 'stage:x, x.y, +x.y, x.y+, tag:t, state:invalid; several are all run, a comma stands for "and"'


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command of this module.

    Args:
        commands: The commands of the parser.
    """
    run = commands.add_parser(
        "run",
        help="run a flow, or a part of it, in this process",
        # argparse would show the file last, where --select would take it for one of its own.
        usage="%(prog)s FLOW_FILE [--select PART ...] [--exclude PART ...] [--flow NAME] [--instance NAME]",
        description="Run a flow, or a part of it, in this process. Selected stages are published. Selected tasks run "
        "even if they are valid, and are not published.",
    )
    run.add_argument("file", type=Path, metavar="FLOW_FILE", help="the Python file of the flow")
    run.add_argument("--flow", metavar="NAME", help="name of the flow, if the file has several")
    run.add_argument("--instance", metavar="NAME", help="the instance of pipedag.yaml (default: the common one)")
    run.add_argument("--select", nargs="+", default=[], metavar="PART", help=f"what to run: {_SELECTION}")
    run.add_argument("--exclude", nargs="+", default=[], metavar="PART", help="what to leave out, in the same form")
    run.set_defaults(run=_run)


def _run(arguments: argparse.Namespace) -> int:
    from pipedag_airflow.config import PipedagConfig
    from pipedag_airflow.engine import SequentialEngine
    from pipedag_airflow.errors import PipedagError

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    try:
        flow = _load(arguments.file, arguments.flow)
        config = PipedagConfig.find(arguments.file.resolve().parent).get(instance=arguments.instance, flow=flow.name)
        result = flow.run(
            *arguments.select,
            exclude=arguments.exclude,
            config=config,
            orchestration_engine=SequentialEngine(),
            fail_fast=False,
        )
        sys.stdout.write("\n".join(_summary(result)) + "\n")
    except PipedagError as error:
        sys.stderr.write(f"pipedag-airflow: {error}\n")
        return 1
    if result.exception is not None:
        logging.getLogger(__name__).error("The first error:", exc_info=result.exception)
    return 0 if result.successful else 1


def _load(file: Path, name: str | None) -> Flow:
    """Import a file as a script beside its neighbours, and return its flow."""
    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.errors import FlowError

    file = file.resolve()
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise FlowError(f"{file} is no Python file that could hold a flow.")
    module = importlib.util.module_from_spec(spec)
    sys.path.insert(0, str(file.parent))
    sys.modules.setdefault(file.stem, module)  # what is pickled names its module
    spec.loader.exec_module(module)
    found = (thing for thing in vars(module).values() if isinstance(thing, Flow) and thing.file == file)
    flows = {flow.name: flow for flow in found}
    if name is None and len(flows) == 1:
        return next(iter(flows.values()))
    if name in flows:
        return flows[name]
    wanted = "several flows: name one with --flow" if name is None else f"no flow {name!r}"
    raise FlowError(f"{file} has {wanted if flows else 'no flow'}. Its flows: {', '.join(sorted(flows)) or 'none'}.")


def _summary(result: Result) -> Iterator[str]:
    """Yield a line for each task that was selected, and one for each of their stages."""
    states = {task.id: state.value for task, state in result.task_states.items()}
    decisions = {task.id: decision for task, decision in result.decisions.items()}
    width = max(map(len, states), default=0)
    outcomes = _outcomes(result)
    for stage in result.flow.plan().stages:
        nodes = [node for node in stage.tasks if node in states]
        if not nodes:
            continue
        yield f"{stage.name}: {outcomes.get(stage.name, 'not begun')}"
        for node in nodes:
            reason = f"  {decisions[node].reason.value}" if node in decisions else ""
            yield f"  {node:<{width}}  {states[node]:<11}{reason}".rstrip()
    yield "successful" if result.successful else "not successful"


def _outcomes(result: Result) -> dict[str, str]:
    """Return what became of each stage that was begun."""
    from pipedag_airflow.backend.metadata import GenerationState

    shown = {
        GenerationState.PUBLISHED: "published as generation {}",
        GenerationState.UNCHANGED: "unchanged",
        GenerationState.ABANDONED: "not published; what ran is in generation {}",
        GenerationState.OPEN: "not published; what ran is in generation {}",
    }
    with result.config_context.table_store.transaction() as transaction:
        generations = transaction.metadata.generations(run_id=result.run_id)
    return {record.stage: shown[record.state].format(record.number) for record in generations}
