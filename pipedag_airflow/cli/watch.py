"""Following a run of a DAG on a terminal: a line whenever a task changes its state, and what it cost in the end."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipedag_airflow.testing.rest import AirflowClient

__all__ = ["Narrator", "RunReport", "watch_run"]

_WORTH_A_LINE = frozenset({"running", "success", "skipped", "failed", "upstream_failed", "up_for_retry", "deferred"})
_BEGIN = "begin_transaction"


class Narrator:
    """Writes lines that begin with the seconds since the narrator was made."""

    def __init__(self) -> None:
        self._begin = time.monotonic()

    def say(self, text: str) -> None:
        """Write one line with the time."""
        self.write(f"{time.monotonic() - self._begin:6.1f} s  {text}")

    def write(self, text: str) -> None:
        """Write text as it is."""
        sys.stdout.write(text + "\n")
        sys.stdout.flush()  # into a pipe, too, a line is to be seen when it is written


@dataclass(frozen=True)
class RunReport:
    """What a run did and what it cost.

    Attributes:
        dag_id: The DAG.
        run_id: The run.
        state: How it ended.
        seconds: From the trigger to the end, by Airflow's clock.
        tasks: Its task instances, as the REST API describes them.
    """

    dag_id: str
    run_id: str
    state: str
    seconds: float
    tasks: tuple[dict[str, Any], ...]

    @property
    def processes(self) -> int:
        """How many task instances had a process; one that was skipped by another task has none."""
        return sum(task["try_number"] > 0 for task in self.tasks)

    @property
    def skipped(self) -> int:
        """How many tasks were skipped: their results are valid."""
        return sum(task["state"] == "skipped" for task in self.tasks)

    @property
    def all_valid(self) -> bool:
        """Whether the run did nothing but decide, at the begin of each stage, that there is nothing to do."""
        worked = [task for task in self.tasks if task["try_number"] > 0]
        return self.state == "success" and all(task["task_id"].endswith(_BEGIN) for task in worked)

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The tasks that failed by themselves."""
        return [task for task in self.tasks if task["state"] == "failed"]


class _Progress:
    """Says for each look at a run which tasks changed their state since the last one."""

    def __init__(self, client: AirflowClient, narrator: Narrator) -> None:
        self._client = client
        self._narrator = narrator
        self._states: dict[tuple[str, int], str | None] = {}
        self.tasks: list[dict[str, Any]] = []

    def __call__(self, run: dict[str, Any]) -> None:
        self.tasks = self._client.task_instances(run["dag_id"], run["dag_run_id"])
        width = max((len(task["task_id"]) for task in self.tasks), default=0)
        for task in sorted(self.tasks, key=lambda task: task["start_date"] or "9"):
            key, state = (task["task_id"], task["map_index"]), task["state"]
            if state in _WORTH_A_LINE and state != self._states.get(key):
                self._narrator.say(f"  {task['task_id']:<{width}}  {_describe(task)}")
            self._states[key] = state


def watch_run(client: AirflowClient, dag_id: str, run_id: str, narrator: Narrator) -> RunReport:
    """Follow a run to its end.

    Args:
        client: A client of the Airflow.
        dag_id: The DAG.
        run_id: The run, triggered already.
        narrator: Who tells about it.
    """
    progress = _Progress(client, narrator)
    run = client.wait_run(dag_id, run_id, timeout=3600, on_poll=progress)
    seconds = (_moment(run["end_date"]) - _moment(run["queued_at"])).total_seconds()
    return RunReport(dag_id, run_id, run["state"], seconds, tuple(progress.tasks))


def _describe(task: dict[str, Any]) -> str:
    if task["state"] == "skipped" and task["try_number"] == 0:
        return "skipped  valid, no process"
    if task["state"] not in ("success", "failed") or task["duration"] is None:
        return str(task["state"])
    return f"{task['state']:<7}  {task['duration']:.1f} s"


def _moment(text: str) -> datetime:
    return datetime.fromisoformat(text)
