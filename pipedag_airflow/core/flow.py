"""A :class:`Flow`: stages, tasks, and the doors from authoring to running."""

from __future__ import annotations

import sys
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pipedag_airflow.core import definition
from pipedag_airflow.core.airflow_settings import FLOW_KEYS, checked_settings
from pipedag_airflow.core.classes import Classes
from pipedag_airflow.core.definition import own
from pipedag_airflow.core.plan import COMMIT_TASK, RESERVED_TASKS, Plan, compile_plan
from pipedag_airflow.errors import DuplicateNameError, FlowError, StageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from types import FrameType, TracebackType

    import pydot
    from airflow.sdk import DAG

    from pipedag_airflow.config import CacheValidationMode, ConfigContext
    from pipedag_airflow.core.group_node import GroupNode
    from pipedag_airflow.core.stage import Stage
    from pipedag_airflow.core.task import Task, TaskGetItem
    from pipedag_airflow.engine.base import OrchestrationEngine
    from pipedag_airflow.run.result import Result

    Component = Task | TaskGetItem | Stage | str

__all__ = ["DEFAULT_NAME", "Flow"]

DEFAULT_NAME = "default"


class Flow:
    """A collection of dependent tasks, grouped in stages.

    Used as a context manager: stages and tasks that are made within its block belong to it. If the module is a file in
    Airflow's dags folder, leaving the block makes a DAG of the flow's name; see :meth:`to_dag` for one with arguments.

    Args:
        name: Name of the flow, and of its DAG.
        airflow: What its DAG is like, and what holds for the operators in it, such as
            ``{"schedule": "@daily", "retries": 2}``; see docs/airflow.md.

    Raises:
        ConfigError: if ``airflow`` has a key that is unknown.

    Example:
        ::

            with Flow("my_flow") as flow:
                with Stage("stage_1"):
                    table = make_table()
                with Stage("stage_2"):
                    use_table(table)

            result = flow.run()
    """

    def __init__(self, name: str = DEFAULT_NAME, *, airflow: Mapping[str, Any] | None = None) -> None:
        self.name = name
        #: What it says about its DAG.
        self.airflow = checked_settings(f"Flow {name!r}", airflow, FLOW_KEYS)
        self.stages: dict[str, Stage] = {}
        self.tasks: dict[str, Task] = {}
        #: The groups in the order in which they are opened: one stands before those in it.
        self.groups: list[GroupNode] = []
        #: Ids of tasks and commits in the order of their creation, which is an order in which they can run.
        self.order: list[str] = []
        #: The file that holds the flow's block: pipedag.yaml is looked for beside and above it. None in a notebook.
        self.file: Path | None = None
        #: The global names of the module that holds the flow's block.
        self.namespace: dict[str, Any] = {}
        self._plan: Plan | None = None
        #: How often each task was called in each stage, by the id of the first call.
        self._occurrences: dict[str, int] = {}

    def __enter__(self) -> Self:
        open_flow = definition.current_flow()
        if open_flow is not None:
            raise RuntimeError(f"Flow {self.name!r} is opened within the open flow {open_flow.name!r}.")
        if self._plan is not None or self.stages:
            raise FlowError(f"Flow {self.name!r} was opened before. A flow is defined by one block.")
        self.namespace = _block_globals()
        file = self.namespace.get("__file__")
        self.file = Path(file).resolve() if file else None
        definition.open_flow(self)
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        definition.close_flow()
        if exc_type is not None:
            return
        self._plan = compile_plan(self)
        # Only where Airflow is what imports the module: a local run must not load it.
        if "airflow.sdk" in sys.modules:
            from pipedag_airflow.provider.registration import on_flow_defined

            on_flow_defined(self, _block_globals())

    def add_stage(self, stage: Stage, parent: Stage | None) -> None:
        """Add a stage whose block is entered; called by :class:`Stage`.

        Raises:
            DuplicateNameError: if the flow has a stage of that name.
        """
        if stage.name in self.stages:
            raise DuplicateNameError(
                f"Flow {self.name!r} has two stages of the name {stage.name!r} (case does not count). Rename one."
            )
        stage.flow, stage.parent = self, parent
        self.stages[stage.name] = stage

    def add_task(self, task: Task) -> Task:
        """Add a task to its stage and give it its id; called when a task is wired.

        Raises:
            FlowError: if an argument is a task of another flow.
            StageError: if the name of the task is reserved.
        """
        name, stage = own(task, "name"), own(task, "stage")
        where = f"Task {name!r} in stage {stage.name!r} of flow {self.name!r}"
        for argument in own(task, "inputs"):
            if own(argument, "flow") is not self:
                raise FlowError(
                    f"{where} has an argument that is task {argument.id!r} of another flow, {argument.flow.name!r}. "
                    "Tasks pass results only within one flow."
                )
        # Names may have dots: the last part alone decides whether an id could be that of a stage's operator.
        if name.rpartition(".")[2] in RESERVED_TASKS:
            raise StageError(
                f"{where}: the name is reserved for the stage's own operators. Give the task another name."
            )
        task.id = free = self._free_id(f"{stage.name}.{name}")
        self.tasks[free] = task
        self.order.append(free)
        stage.tasks.append(task)
        return task

    def add_commit(self, stage: Stage) -> None:
        """Note the commit of a stage whose block was left; called by :class:`Stage`."""
        self.order.append(f"{stage.name}.{COMMIT_TASK}")

    def _free_id(self, base: str) -> str:
        candidate = base
        # From the last one on, for stages that call a task hundreds of times.
        occurrence = self._occurrences.get(base, 1)
        while candidate in self.tasks:
            occurrence += 1
            candidate = f"{base}__{occurrence}"
        self._occurrences[base] = occurrence
        return candidate

    def plan(self) -> Plan:
        """Return the compiled plan of the flow.

        Raises:
            FlowError: if the flow's block was not left yet.
        """
        if self._plan is None:
            raise FlowError(f"Flow {self.name!r} has no plan: its block was not left, or left with an error.")
        return self._plan

    @cached_property
    def classes(self) -> Classes:
        """The classes that values of the flow may have; known when the flow's block was left."""
        return Classes.of_functions((task.unbound.fn for task in self.tasks.values()), self.namespace)

    def __getitem__(self, name: str) -> Stage:
        """Return a stage by name.

        Raises:
            KeyError: if there is no stage of that name.
        """
        if name not in self.stages:
            known = ", ".join(self.stages) or "none"
            raise KeyError(f"Flow {self.name!r} has no stage {name!r}. Its stages: {known}")
        return self.stages[name]

    def get_stage(self, name: str) -> Stage:
        """Return a stage by name; the same as ``flow[name]``."""
        return self[name]

    def run(
        self,
        *components: Component,
        config: ConfigContext | None = None,
        orchestration_engine: OrchestrationEngine | None = None,
        fail_fast: bool | None = None,
        ignore_cache_function: bool = False,
        cache_validation_mode: CacheValidationMode | str | None = None,
        ignore_task_version: bool | None = None,
        exclude: Component | Iterable[Component] = (),
        inputs: Mapping[Task | TaskGetItem | str, Any] | None = None,
        **kwargs: Any,
    ) -> Result:
        """Run the flow here and now.

        Args:
            components: What to run instead of the whole flow: stages (with all that is nested in them), tasks, and
                texts such as ``"stage:clean"``, ``"+clean.orders"`` and ``"tag:nightly"``; see
                :mod:`pipedag_airflow.core.selector`. Stages are published. Tasks run even if they are valid and are not
                published: ``Result.get`` gives what they made. What is not selected is read as it is published.
            config: The configuration; default is the open :class:`ConfigContext`, else the pipedag.yaml that is found
                from the flow's folder upward, else an embedded DuckDB.
            orchestration_engine: The engine; default is that of the configuration.
            fail_fast: Raise the first error at once (True), or return a result that has it (False). Default is what
                the configuration says.
            ignore_cache_function: Take stored results as valid whatever their cache function returns now: the same as
                the mode ``IGNORE_FRESH_INPUT``.
            cache_validation_mode: Which stored results are taken as valid, a :class:`CacheValidationMode` or its value;
                default is what the configuration says.
            ignore_task_version: Run tasks that have a version even though it is unchanged; default is what the
                configuration says.
            exclude: What to leave out, selected in the same way. A stage of which a task is left out is not published.
            inputs: What tasks read in this run in the place of results: by task, part of its result, or id, an
                :class:`ExternalTableReference` or any value that may pass between tasks. The replaced task itself runs
                if it is selected.
            kwargs: Passed on to the engine, which refuses what it does not know.

        Returns:
            The :class:`Result`.

        Raises:
            PipedagError: if the run cannot start.
            SelectionError: if what is selected is not in the flow, or cannot be run like that.
            TypeError: if a component is neither a stage, nor a task, nor a text.
            ConfigError: if the mode is unknown, or contradicts ``ignore_cache_function``.
            Exception: the error of a task, if ``fail_fast``.

        Example:
            ::

                result = flow.run()
                df = result.get(task, as_type=pd.DataFrame)
        """
        from pipedag_airflow.run.launch import launch

        return launch(
            self,
            components,
            exclude=exclude,
            inputs=inputs,
            config=config,
            engine=orchestration_engine,
            fail_fast=fail_fast,
            ignore_cache_function=ignore_cache_function,
            cache_validation_mode=cache_validation_mode,
            ignore_task_version=ignore_task_version,
            engine_arguments=kwargs,
        )

    def to_dag(self, **dag_args: Any) -> DAG:
        """Make the flow's Airflow DAG with arguments of your own, in place of the automatic one.

        Args:
            dag_args: Arguments of ``airflow.sdk.DAG``, such as ``schedule``; they win over pipedag.yaml and over what
                the flow itself says.

        Example:
            ::

                dag = flow.to_dag(schedule="@daily", tags=["sales"])
        """
        from pipedag_airflow.provider.registration import to_dag

        return to_dag(self, sys._getframe(1).f_globals, dag_args)

    def visualize(self, result: Result | None = None) -> None:
        """Show the flow as a graph: in a notebook as its output, otherwise as a PDF in the browser.

        Needs Graphviz and the extra ``visualize``.

        Args:
            result: A run of the flow. Tasks are coloured by what became of them, and what was not selected is dashed.

        Raises:
            MissingExtraError: if pydot or Graphviz is not installed.
            FlowError: if the result is that of another flow.
        """
        from pipedag_airflow.visualize import show

        show(self, result)

    def visualize_url(self, result: Result | None = None) -> str:
        """Return a link that shows the flow as a graph, drawn by the Kroki server that ``kroki_url`` names.

        Nothing is contacted by this call. The graph itself is in the link: whoever opens it sends the names of stages
        and tasks, their versions and the first lines of their docstrings to that server, which may be a third party's.

        Args:
            result: A run of the flow; see :meth:`visualize`. Its configuration names the server.

        Raises:
            ConfigError: if ``kroki_url`` is not configured.
            MissingExtraError: if pydot is not installed.
            FlowError: if the result is that of another flow.
        """
        from pipedag_airflow.visualize import picture_url

        return picture_url(self, result)

    def visualize_pydot(self, result: Result | None = None) -> pydot.Dot:
        """Return the flow as a graph of pydot's, to be changed or written to a file.

        Args:
            result: A run of the flow; see :meth:`visualize`.

        Raises:
            MissingExtraError: if pydot is not installed.
            FlowError: if the result is that of another flow.

        Example:
            ::

                flow.visualize_pydot().write_svg("flow.svg")
        """
        from pipedag_airflow.visualize import draw

        return draw(self, result)

    def __repr__(self) -> str:
        return f"<Flow {self.name}>"


def _block_globals() -> dict[str, Any]:
    """Return the global variables of the module that holds the flow's block, for __enter__ and __exit__."""
    frame: FrameType | None = sys._getframe(2)
    # An ExitStack enters and leaves the block for the code that called it.
    while frame is not None and frame.f_globals.get("__name__") == "contextlib":
        frame = frame.f_back
    return {} if frame is None else frame.f_globals
