"""Tasks: the decorated function, one call of it in a flow, and a reference into its result."""

from __future__ import annotations

import functools
import inspect
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

from pipedag_airflow.core import definition
from pipedag_airflow.core.airflow_settings import TASK_KEYS, checked_settings
from pipedag_airflow.core.auto_version import AUTO_VERSION, AutoVersion
from pipedag_airflow.core.classes import field_values, is_dataclass_instance
from pipedag_airflow.core.containers import Blob, RawSql, Table
from pipedag_airflow.core.definition import own
from pipedag_airflow.core.naming import checked_tags
from pipedag_airflow.core.paths import circles_named
from pipedag_airflow.core.values import deep_map
from pipedag_airflow.errors import NotCalledError, StageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from pipedag_airflow.core.flow import Flow
    from pipedag_airflow.core.group_node import GroupNode
    from pipedag_airflow.core.stage import Stage

__all__ = ["Task", "TaskGetItem", "UnboundTask", "running_task"]

#: The task whose function is being called in this context.
running_task: ContextVar[Task | None] = ContextVar("running_task", default=None)


class UnboundTask:
    """What :func:`materialize` makes of a function: calling it within a stage adds a task to the flow.

    Outside of a flow, and within a running task, a call runs the plain function and returns its plain result:
    tables and blobs unwrapped.
    """

    def __init__(
        self,
        fn: Callable[..., Any],
        *,
        name: str | None = None,
        input_type: Any = None,
        version: str | AutoVersion | None = None,
        cache: Callable[..., Any] | None = None,
        lazy: bool = False,
        nout: int = 1,
        tags: str | Iterable[str] = (),
        airflow: Mapping[str, Any] | None = None,
    ) -> None:
        if not callable(fn):
            raise TypeError(f"@materialize decorates a function, not {fn!r}")
        if isinstance(input_type, str):
            raise TypeError(f"input_type is a type, such as pandas.DataFrame, not its name in quotes: {input_type!r}")
        if type(nout) is not int or nout < 1:
            raise ValueError(f"nout is the number of objects that a task returns, an int of at least 1, not {nout!r}")
        if version is AUTO_VERSION:
            _check_auto_version(name or str(getattr(fn, "__name__", fn)), input_type, lazy)
        # First of all, because it copies the function's own attributes: ours come after and win.
        functools.update_wrapper(self, fn)
        self.fn = fn
        self.name = name or str(getattr(fn, "__name__", type(fn).__name__))
        self.input_type = input_type
        self.version = version
        self.cache = cache
        self.lazy = lazy
        self.nout = nout
        self.tags = checked_tags(f"Task {self.name!r}", tags)
        #: What it says about its place in a DAG.
        self.airflow = checked_settings(f"Task {self.name!r}", airflow, TASK_KEYS)
        self.signature = inspect.signature(fn)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Add a task to the open stage, or run the function if no flow is open.

        Raises:
            TypeError: if the arguments do not fit the function.
            StageError: if a flow is open, but no stage.
            UnsupportedValueError: if an argument holds itself.
        """
        flow, stage = definition.current_flow(), definition.current_stage()
        if flow is None:
            return self._run_plain(*args, **kwargs)
        if stage is None:
            raise StageError(
                f"The task {self.name!r} is called within the flow {flow.name!r}, but outside of a stage. "
                'Call it within "with Stage(...):".'
            )
        try:
            bound = self.bind(stage, args, kwargs)
        except TypeError as error:
            raise TypeError(f"Task {self.name!r} in stage {stage.name!r} of flow {flow.name!r}: {error}") from None
        # An omitted default and the same value given are one call: they share a result.
        bound.apply_defaults()
        return flow.add_task(Task(self, flow, stage, bound))

    def bind(self, stage: Stage, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        """Return the arguments of a call within a stage; a kind of task of its own may bind more than it was given.

        Raises:
            TypeError: if the arguments do not fit the function.
        """
        del stage
        return self.signature.bind(*args, **kwargs)

    def _run_plain(self, *args: Any, **kwargs: Any) -> Any:
        outer = running_task.get()
        if outer is not None:
            ours, theirs = self.input_type, outer.unbound.input_type
            if ours is not None and theirs is not None and ours != theirs:
                raise RuntimeError(
                    f"Task {outer.name!r} (input_type {theirs!r}) calls task {self.name!r}, whose input_type is "
                    f"{ours!r}: tables were loaded for the calling task. Give both the same input_type."
                )
        return deep_map(self.fn(*args, **kwargs), _unwrap)

    def __iter__(self) -> Iterator[Any]:
        """Refuse to be unpacked.

        Raises:
            NotCalledError: always.
        """
        raise NotCalledError(f"Task {self.name!r} is unpacked, but not called: write {self.name}(...) to unpack it.")

    def __repr__(self) -> str:
        return f"<UnboundTask {self.name}>"


def _check_auto_version(name: str, input_type: Any, lazy: bool) -> None:
    if input_type is None:
        raise ValueError(
            f"Task {name!r} has AUTO_VERSION, but no input_type. Give it one, such as input_type=polars.LazyFrame."
        )
    if lazy:
        raise ValueError(
            f"Task {name!r} has AUTO_VERSION and lazy=True. A lazy task is judged by its query in every run: leave one "
            "of the two out."
        )


def _unwrap(value: Any) -> Any:
    if isinstance(value, (Table, Blob)):
        return value.obj
    if isinstance(value, RawSql):
        return value.sql
    return value


class Task:
    """One call of a task in a flow.

    ``task[key]`` refers to an element of its result, or to a field where that is a dataclass. While its flow is being
    defined, so does ``task.field``, whatever the field is called: what the task itself is, such as its name, its
    attributes say when the flow's block was left. With ``nout`` the task can be unpacked.
    """

    def __init__(self, unbound: UnboundTask, flow: Flow, stage: Stage, bound: inspect.BoundArguments) -> None:
        self.unbound = unbound
        self.name = unbound.name
        self.nout = unbound.nout
        self.flow = flow
        self.stage = stage
        self.bound = bound
        #: Stable id in the plan, ``stage.task``; given by the flow.
        self.id = ""
        #: The group that the task directly stands in, within its stage.
        self.group: GroupNode | None = definition.current_group()
        where = f"Task {unbound.name!r} in stage {stage.name!r} of flow {flow.name!r}: argument"
        self.inputs = _referenced_tasks(bound.arguments, where)

    def __getitem__(self, key: Any) -> TaskGetItem:
        """Refer to one element of the task's result."""
        return TaskGetItem(self, (key,))

    def __getattribute__(self, name: str) -> Any:
        """Refer to a field of the task's result, as ``task[name]`` does, while the flow is being defined."""
        if definition.current_flow() is None:  # a flow has tens of thousands of such calls when it is compiled
            return object.__getattribute__(self, name)
        return self[name] if _is_field(self, name) else own(self, name)

    def __getattr__(self, name: str) -> TaskGetItem:
        """Say how to refer to a field, for a name that the task itself does not have.

        Raises:
            AttributeError: always.
        """
        raise _no_attribute(self, name)

    def __iter__(self) -> Iterator[TaskGetItem]:
        """Refer to each of the ``nout`` objects that the task returns."""
        return (self[index] for index in range(own(self, "nout")))

    def get_output_from_store(self, as_type: Any = None, write_local_table_cache: bool = False) -> Any:
        """Return what is published of the task, with its tables and blobs loaded: without a run, and whatever its age.

        The configuration is the open :class:`ConfigContext`, else the one that is found for the flow.

        Args:
            as_type: Type in which tables are loaded; default is the ``input_type`` of the task itself.
            write_local_table_cache: Whether copies of the tables that are read are kept in the local table cache, if
                one is configured. They are read from there in any case.

        Raises:
            CacheError: if nothing is published of it as it stands in the flow now.
            UnsupportedValueError: if there are tables, and no type to load them as.

        Example:
            ::

                df = flow["clean"]["orders"].get_output_from_store(as_type=pd.DataFrame)
        """
        return _output_from_store(self, as_type, write_local_table_cache)

    def __repr__(self) -> str:
        return f"<Task {own(self, 'id') or own(self, 'name')}>"


class TaskGetItem:
    """A reference to a part of a task's result, such as ``task["a"][0]`` or ``task["a"].field``."""

    def __init__(self, task: Task, keys: tuple[Any, ...]) -> None:
        self.task = task
        self.keys = keys

    def __getitem__(self, key: Any) -> TaskGetItem:
        """Refer to a part of the part."""
        return TaskGetItem(own(self, "task"), (*own(self, "keys"), key))

    def __getattribute__(self, name: str) -> Any:
        """Refer to a field of the part, while the flow is being defined."""
        return self[name] if _is_field(own(self, "task"), name) else own(self, name)

    def __getattr__(self, name: str) -> TaskGetItem:
        """Raise like :meth:`Task.__getattr__`."""
        raise _no_attribute(self, name)

    # Without this, Python would iterate by asking for 0, 1, 2 … without end.
    __iter__ = None

    def pick(self, value: Any) -> Any:
        """Return the part of the task's actual result that the reference means.

        Raises:
            TypeError: if an intermediate value is None.
            KeyError: if the result has no such part; also IndexError.
        """
        for key in self.keys:
            if value is None:
                raise TypeError(f"{self!r}: the value before [{key!r}] is None")
            value = _field(value, key) if is_dataclass_instance(value) else value[key]
        return value

    def get_output_from_store(self, as_type: Any = None, write_local_table_cache: bool = False) -> Any:
        """Return what is published of the part; see :meth:`Task.get_output_from_store`."""
        return _output_from_store(self, as_type, write_local_table_cache)

    def __repr__(self) -> str:
        task = own(self, "task")
        return f"<{own(task, 'id') or own(task, 'name')}{''.join(f'[{key!r}]' for key in own(self, 'keys'))}>"


def _output_from_store(reference: Task | TaskGetItem, as_type: Any, write_local_table_cache: bool) -> Any:
    from pipedag_airflow.run.launch import output_from_store

    return output_from_store(reference, as_type, write_local_table_cache)


def _is_field(task: Task, name: str) -> bool:
    """Say whether an attribute means a field of the result: no name of ours may hide one, and be passed in its place.

    Names with an underscore are what Python and notebooks ask any object for. Other flows may run meanwhile.
    """
    flow = definition.current_flow()
    return flow is not None and not name.startswith("_") and own(task, "flow") is flow


def _no_attribute(owner: Task | TaskGetItem, name: str) -> AttributeError:
    message = f"{type(owner).__name__!r} has no attribute {name!r}"
    if not name.startswith("_"):
        message = (
            f"{owner!r} has no attribute {name!r}. A field of a result is referred to as an attribute only while the "
            f"flow is being defined; write [{name!r}] instead."
        )
    return AttributeError(message, name=name, obj=owner)


def _field(value: Any, name: Any) -> Any:
    fields = field_values(value)
    if isinstance(name, str) and name in fields:
        return fields[name]
    if hasattr(value, "__getitem__"):
        return value[name]
    raise KeyError(f"{type(value).__qualname__} has no field {name!r}; its fields are {', '.join(fields) or 'none'}")


def _referenced_tasks(arguments: Mapping[str, Any], where: str) -> tuple[Task, ...]:
    """Return the distinct tasks that stand in the arguments, in the order of their first use."""
    found: dict[Task, None] = {}

    def note(value: Any) -> Any:
        if isinstance(value, Task):
            found[value] = None
        elif isinstance(value, TaskGetItem):
            found[own(value, "task")] = None
        return value

    for name, value in arguments.items():
        with circles_named(value, f"{where} {name}"):
            deep_map(value, note)
    return tuple(found)
