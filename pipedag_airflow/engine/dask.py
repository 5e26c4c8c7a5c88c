"""Tasks in parallel, by dask."""

from __future__ import annotations

import difflib
import inspect
import threading
import uuid
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import ExitStack
from contextvars import copy_context
from functools import partial
from typing import TYPE_CHECKING, Any

from pipedag_airflow.engine.base import OrchestrationEngine, Outcome
from pipedag_airflow.engine.parallel import ParallelRun, Workers
from pipedag_airflow.engine.steps import StepEnd, TravellingRun, execute_step
from pipedag_airflow.errors import MissingExtraError, RunError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from types import TracebackType
    from typing import Self

    from pipedag_airflow.run.session import RunSession

__all__ = ["DaskEngine"]

#: How many tasks a cluster is given at a time: it has workers that come and go, and a queue of its own.
_ON_A_CLUSTER = 128


class DaskEngine(OrchestrationEngine):
    """Executes tasks in parallel by dask: on one machine in processes, or on the cluster of an active ``Client``.

    Each task that has to run is one ``dask.delayed``. What begin finds valid costs no process. After a failure it
    starts nothing more if the run is to fail fast; else it goes on with everything that does not depend on what failed.
    A stage with a failed task is never published.

    Args:
        dask_compute_kwargs: Keyword arguments of ``dask.compute``: above all ``num_workers``, by default one per
            processor, and ``scheduler``: "processes", "threads", "synchronous", or a ``Client``. By default it is what
            dask is configured to, or an active ``Client``, else "processes": tasks work in Python, where threads
            of one process wait for each other.

    Raises:
        MissingExtraError: if dask is not installed.
        TypeError: if no scheduler of dask knows an argument.
    """

    def __init__(self, **dask_compute_kwargs: Any) -> None:
        try:
            import dask.multiprocessing  # noqa: F401 - is it there?
        except ImportError as error:
            raise MissingExtraError("DaskEngine needs dask: pip install 'pipedag-airflow[dask]'.") from error
        _refuse_unknown(dask_compute_kwargs)
        self.dask_compute_kwargs = dask_compute_kwargs

    def run(self, session: RunSession, nodes: Sequence[str]) -> Outcome:
        """Run the given nodes of the plan."""
        with DaskWorkers(session, self.dask_compute_kwargs) as workers:
            return ParallelRun(session, nodes, workers).run()


class DaskWorkers(Workers):
    """A thread for each task that is computed at a time, and with the scheduler "processes" a process for each thread.

    So a process that is killed takes one task with it, and no other.

    Args:
        session: The run.
        compute_kwargs: Keyword arguments of ``dask.compute``.
    """

    def __init__(self, session: RunSession, compute_kwargs: Mapping[str, Any]) -> None:
        import dask.multiprocessing
        from dask.base import get_scheduler

        self._run = TravellingRun(session)
        scheduler = get_scheduler(scheduler=compute_kwargs.get("scheduler"))
        self._scheduler = scheduler or dask.multiprocessing.get
        self._kwargs = {**compute_kwargs, "scheduler": self._scheduler}
        given = self._kwargs.get("pool") or dask.config.get("pool", None)
        self._own_processes = self._scheduler is dask.multiprocessing.get and given is None
        self._mine = threading.local()
        self._closing = ExitStack()
        self.width = self._width()
        threads = ThreadPoolExecutor(self.width, thread_name_prefix="pipedag-dask")
        self._threads = self._closing.enter_context(threads)

    def execute(self, node: str, tell: Callable[[StepEnd], None]) -> None:
        """Have a task computed in a thread that is free."""
        future = self._threads.submit(copy_context().run, self._computed, node)
        future.add_done_callback(lambda ended: tell(ended.result()))

    def _computed(self, node: str) -> StepEnd:
        from dask.base import compute
        from dask.delayed import delayed

        key = f"{node}-{uuid.uuid4().hex}"
        step = delayed(execute_step, pure=False, traverse=False)(self._run, node, dask_key_name=key)
        more = {"pool": self._process()} if self._own_processes else {}
        try:
            [end] = compute(step, **self._kwargs, **more)
        except BaseException as error:  # also what a task raises to end its process: nobody would hear of it here
            if isinstance(error, BrokenProcessPool):
                del self._mine.process
            failure = RunError(
                f"Task {node!r} was not finished: dask could not execute it, or lost who did "
                f"({type(error).__name__}: {error}). A process that is lost was killed, for want of memory "
                "perhaps. What was finished is kept: run the flow again."
            )
            failure.__cause__ = error
            return StepEnd(error=failure)
        assert isinstance(end, StepEnd)
        return end

    def _process(self) -> ProcessPoolExecutor:
        """Return the process of this thread."""
        from dask.multiprocessing import get_context, initialize_worker_process

        if not hasattr(self._mine, "process"):
            prepare = partial(initialize_worker_process, user_initializer=self._kwargs.get("initializer"))
            process = ProcessPoolExecutor(1, mp_context=get_context(), initializer=prepare)
            self._mine.process = self._closing.enter_context(process)
        found: ProcessPoolExecutor = self._mine.process
        return found

    def _width(self) -> int:
        """Return how many tasks are computed at a time."""
        import dask.local
        import dask.multiprocessing
        import dask.threaded
        from dask.system import CPU_COUNT

        if self._scheduler is dask.local.get_sync:
            return 1
        named = self._kwargs.get("num_workers") or dask.config.get("num_workers", None)
        if named is not None:
            return int(named)
        if isinstance(self._scheduler, partial):  # of an Executor: dask has put its size in
            return int(self._scheduler.args[1])
        local = (dask.multiprocessing.get, dask.threaded.get)
        return int(CPU_COUNT) if self._scheduler in local else _ON_A_CLUSTER

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing.close()


def _refuse_unknown(arguments: Mapping[str, Any]) -> None:
    """Refuse what no scheduler knows: dask itself passes over it."""
    import dask.multiprocessing
    import dask.threaded
    from dask.base import compute

    known = _names(compute, dask.threaded.get, dask.multiprocessing.get)
    for name in arguments:
        if name not in known and name not in _names_for_clusters():
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else " The one that counts is num_workers."
            raise TypeError(f"DaskEngine passes its arguments to dask.compute, which does not know {name!r}.{hint}")


def _names(*functions: Callable[..., Any]) -> set[str]:
    """Return the names of the options that functions take."""
    found = {name for function in functions for name in inspect.signature(function).parameters}
    return found - {"self", "args", "kwargs", "get", "dsk", "keys"}


def _names_for_clusters() -> set[str]:
    try:
        from distributed import Client
    except ImportError:
        return set()
    return _names(Client.get)
