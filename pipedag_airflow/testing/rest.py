"""A client for the REST API of Airflow 3: what a person does in the UI, as method calls.

It uses nothing but the standard library, and no Airflow.
"""

from __future__ import annotations

import http.client
import json
import time
import urllib.error
import urllib.parse
import urllib.request
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

__all__ = ["AirflowClient", "AirflowRequestError", "DagImportError"]

FINAL_STATES = frozenset({"success", "failed"})
"""The states in which a run stays."""

_PAGE = 100  # Airflow's own limit
_POLL = 0.25


class AirflowRequestError(RuntimeError):
    """Airflow refused a request, or could not be reached.

    Args:
        method: The HTTP method.
        path: Path and query of the request.
        status: The HTTP status; None when there was no answer.
        body: What Airflow answered, or the reason why it did not.
    """

    def __init__(self, method: str, path: str, status: int | None, body: str) -> None:
        super().__init__(f"{method} {path}: {'no answer' if status is None else f'HTTP {status}'}: {body}")
        self.method = method
        self.path = path
        self.status = status
        self.body = body

    @property
    def is_of_database(self) -> bool:
        """Whether Airflow's database refused the request, by Airflow's own words for it."""
        return self.status == 500 and '"Database error"' in self.body


class DagImportError(RuntimeError):
    """Airflow could not import the file in which a DAG was expected; the message is Airflow's."""


class AirflowClient:
    """Talk to one Airflow.

    Args:
        url: Where the API server listens, such as ``http://127.0.0.1:8080``.
        username: A user of Airflow's.
        password: That user's password.
        timeout: Seconds after which a request fails that got no answer.
    """

    def __init__(self, url: str, username: str, password: str, *, timeout: float = 60) -> None:
        self.url = url
        self._login = {"username": username, "password": password}
        self._timeout = timeout
        self._token: str | None = None
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # it is our own machine

    def request(self, method: str, path: str, body: object = None) -> Any:
        """Send a request with the user's token and return the decoded JSON answer.

        A request that Airflow's own database refused is sent again until the client's time-out: SQLite lets one
        transaction write at a time, and what was refused has been rolled back as a whole.

        Args:
            method: The HTTP method.
            path: The path with its query, such as ``/api/v2/dags?limit=5``.
            body: What is sent as JSON; None for nothing.

        Raises:
            AirflowRequestError: If the answer is not a success.
        """
        if self._token is None:
            self._token = self._send("POST", "/auth/token", self._login)["access_token"]
        deadline = time.monotonic() + self._timeout
        while True:
            try:
                return self._send(method, path, body, self._token)
            except AirflowRequestError as error:
                if not error.is_of_database or time.monotonic() >= deadline:
                    raise
            time.sleep(_POLL)

    def health(self, timeout: float = 5) -> dict[str, Any]:
        """Return the state of each component; needs no login.

        Args:
            timeout: Seconds after which the request fails.
        """
        answer: dict[str, Any] = self._send("GET", "/api/v2/monitor/health", timeout=timeout)
        return answer

    def execution_health(self) -> dict[str, Any]:
        """Return the state of the API that tasks report to.

        Airflow builds that API when it gets its first request, for three seconds that no task pays after this call.
        """
        answer: dict[str, Any] = self._send("GET", "/execution/health")
        return answer

    def dags(self) -> list[dict[str, Any]]:
        """Return all DAGs, also those whose file cannot be imported any more."""
        return list(self._pages("/api/v2/dags", "dags"))

    def dag(self, dag_id: str) -> dict[str, Any]:
        """Return one DAG."""
        answer: dict[str, Any] = self.request("GET", _path("dags", dag_id))
        return answer

    def dag_source(self, dag_id: str) -> str:
        """Return the source text of the DAG's file, as the UI's code view shows it."""
        return str(self.request("GET", _path("dagSources", dag_id))["content"])

    def import_errors(self) -> list[dict[str, Any]]:
        """Return the files that Airflow could not import: `filename`, `stack_trace`, `timestamp`."""
        return list(self._pages("/api/v2/importErrors", "import_errors"))

    def wait_dag(
        self, dag_id: str, *, file: str | None = None, parsed_after: datetime | None = None, timeout: float = 60
    ) -> dict[str, Any]:
        """Wait until Airflow knows a DAG, and return it.

        Args:
            dag_id: The DAG's id.
            file: The name of its file; without it, an import error counts that mentions the id.
            parsed_after: Wait for a parse later than this, after the file was changed. Aware of its time zone.
            timeout: Seconds to wait.

        Raises:
            DagImportError: As soon as the file turns out to have an import error.
            TimeoutError: If the DAG does not appear; the message has the DAGs and import errors that there are.
        """

        def look() -> dict[str, Any] | None:
            for error in self.import_errors():
                if _is_later(error["timestamp"], parsed_after) and _concerns(error, dag_id, file):
                    raise DagImportError(f"{error['filename']} cannot be imported:\n{error['stack_trace']}")
            dag = self._find_dag(dag_id)
            return dag if dag and _is_later(dag["last_parsed_time"], parsed_after) else None

        return _wait(look, timeout, lambda: f"DAG {dag_id!r} did not appear. {self._describe_dags()}")

    def pause(self, dag_id: str, paused: bool = True) -> None:
        """Pause a DAG: its runs stay queued."""
        self.request("PATCH", _path("dags", dag_id), {"is_paused": paused})

    def unpause(self, dag_id: str) -> None:
        """Let a DAG run; a new one is paused."""
        self.pause(dag_id, False)

    def trigger(self, dag_id: str, conf: Mapping[str, Any] | None = None, *, note: str | None = None) -> str:
        """Trigger a DAG as the UI's button does, and return the id of the new run.

        Args:
            dag_id: The DAG's id.
            conf: Values of the DAG's parameters.
            note: The run's note.
        """
        body = {"logical_date": None, "conf": dict(conf or {}), "note": note}
        return str(self.request("POST", _path("dags", dag_id, "dagRuns"), body)["dag_run_id"])

    def run(self, dag_id: str, run_id: str) -> dict[str, Any]:
        """Return one run of a DAG."""
        answer: dict[str, Any] = self.request("GET", _path("dags", dag_id, "dagRuns", run_id))
        return answer

    def wait_run(
        self,
        dag_id: str,
        run_id: str,
        *,
        timeout: float = 600,
        on_poll: Callable[[dict[str, Any]], None] | None = None,
    ) -> dict[str, Any]:
        """Wait until a run has succeeded or failed, and return it.

        Args:
            dag_id: The DAG's id.
            run_id: The run's id.
            timeout: Seconds to wait.
            on_poll: Called with the run at each look, also at the last one: for progress.

        Raises:
            TimeoutError: If the run goes on; the message has the states of its tasks.
        """

        def look() -> dict[str, Any] | None:
            run = self.run(dag_id, run_id)
            if on_poll is not None:
                on_poll(run)
            return run if run["state"] in FINAL_STATES else None

        return _wait(look, timeout, lambda: f"Run {run_id} of {dag_id} is not over: {self.states(dag_id, run_id)}")

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return all task instances of a run."""
        return list(self._pages(_path("dags", dag_id, "dagRuns", run_id, "taskInstances"), "task_instances"))

    def states(self, dag_id: str, run_id: str) -> dict[str, str | None]:
        """Return the state of each task of a run; of a mapped task, that of its last instance."""
        return {task["task_id"]: task["state"] for task in self.task_instances(dag_id, run_id)}

    def log(self, dag_id: str, run_id: str, task_id: str, *, try_number: int = 1, map_index: int = -1) -> str:
        """Return the log of one try of a task, a line per message.

        Args:
            dag_id: The DAG's id.
            run_id: The run's id.
            task_id: The task's id.
            try_number: Which try, counted from 1.
            map_index: Which instance of a mapped task; -1 for a task that is not mapped.
        """
        path = _path("dags", dag_id, "dagRuns", run_id, "taskInstances", task_id, "logs", str(try_number))
        answer = self.request("GET", f"{path}?full_content=true&map_index={map_index}")
        return "\n".join(_log_line(entry) for entry in answer["content"])

    def clear(self, dag_id: str, run_id: str, task_ids: Sequence[str], *, downstream: bool = False) -> list[str]:
        """Clear tasks of a run, so that they run again, and return the ids of those that were cleared.

        Args:
            dag_id: The DAG's id.
            run_id: The run's id.
            task_ids: The tasks.
            downstream: Whether all that follow them are cleared, too.
        """
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": list(task_ids),
            "only_failed": False,
            "include_downstream": downstream,
            "reset_dag_runs": True,
        }
        answer = self.request("POST", _path("dags", dag_id, "clearTaskInstances"), body)
        return [task["task_id"] for task in answer["task_instances"]]

    def set_run_state(self, dag_id: str, run_id: str, state: str) -> None:
        """Mark a run as `success` or `failed`, or put it back as `queued`."""
        self.request("PATCH", _path("dags", dag_id, "dagRuns", run_id), {"state": state})

    def set_task_state(self, dag_id: str, run_id: str, task_id: str, state: str) -> None:
        """Mark a task of a run as `success`, `failed` or `skipped`."""
        path = _path("dags", dag_id, "dagRuns", run_id, "taskInstances", task_id)
        self.request("PATCH", path, {"new_state": state})

    def _find_dag(self, dag_id: str) -> dict[str, Any] | None:
        try:
            return self.dag(dag_id)
        except AirflowRequestError as error:
            if error.status == 404:
                return None
            raise

    def _describe_dags(self) -> str:
        known = ", ".join(dag["dag_id"] for dag in self.dags()) or "none"
        errors = "".join(f"\n\n{error['filename']}:\n{error['stack_trace']}" for error in self.import_errors())
        return f"Known DAGs: {known}.{errors}"

    def _pages(self, path: str, key: str) -> Iterator[dict[str, Any]]:
        offset = 0
        while True:
            page = self.request("GET", f"{path}?limit={_PAGE}&offset={offset}")
            yield from page[key]
            offset += _PAGE
            if offset >= page["total_entries"]:
                return

    def _send(
        self, method: str, path: str, body: object = None, token: str | None = None, timeout: float | None = None
    ) -> Any:
        request = urllib.request.Request(self.url + path, method=method)  # noqa: S310 - an http URL of ours
        request.add_header("Content-Type", "application/json")
        if token is not None:
            request.add_header("Authorization", f"Bearer {token}")
        if body is not None:
            request.data = json.dumps(body).encode()
        try:
            with self._opener.open(request, timeout=timeout or self._timeout) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                raise AirflowRequestError(method, path, error.code, error.read().decode(errors="replace")) from None
        except (OSError, http.client.HTTPException) as error:
            raise AirflowRequestError(method, path, None, str(error)) from error
        return json.loads(text) if text else None


def _path(*parts: str) -> str:
    return "/api/v2/" + "/".join(urllib.parse.quote(part, safe="") for part in parts)


def _wait(look: Callable[[], dict[str, Any] | None], timeout: float, complain: Callable[[], str]) -> dict[str, Any]:
    """Look until there is something to return; also while there is no answer, as the API server may be restarted."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            found = look()
        except AirflowRequestError as error:
            if error.status is not None:
                raise
            found = None
        if found is not None:
            return found
        if time.monotonic() >= deadline:
            raise TimeoutError(f"After {timeout:.0f} s: {complain()}")
        time.sleep(_POLL)


def _is_later(moment: str | None, than: datetime | None) -> bool:
    return than is None or (moment is not None and datetime.fromisoformat(moment) > than)


def _concerns(import_error: Mapping[str, Any], dag_id: str, file: str | None) -> bool:
    if file is not None:
        return bool(import_error["filename"] == file)
    return f"{dag_id}.py" == import_error["filename"] or dag_id in import_error["stack_trace"]


def _log_line(entry: Any) -> str:
    """One message: what happened, and the exception that came with it."""
    if isinstance(entry, str):
        return entry
    lines = [f"{(entry.get('level') or ''):<8}{entry['event']}"]
    for error in entry.get("error_detail") or []:
        lines += [f"{'':<8}  {frame['filename']}:{frame['lineno']} in {frame['name']}" for frame in error["frames"]]
        lines.append(f"{'':<8}{error['exc_type']}: {error['exc_value']}")
    return "\n".join(lines)
