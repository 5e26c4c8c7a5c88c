"""A real Airflow in one folder, for tests, demonstrations and playing: started in seconds, gone without a trace.

    with LocalAirflow(Path("somewhere"), dags_folder=Path("dags")) as airflow:
        airflow.client.wait_dag("flights")
        airflow.client.unpause("flights")
        run_id = airflow.client.trigger("flights")
        airflow.client.wait_run("flights", run_id)

It is the real thing: API server, scheduler, DAG processor and triggerer as processes, LocalExecutor, and SQLite or a
database on PostgreSQL for Airflow's own data. It neither sees nor touches another Airflow of the same user: no setting
of that one reaches it, its ports are its own, and everything that it writes is below its home.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from pipedag_airflow.testing.rest import AirflowClient, AirflowRequestError, DagImportError
from pipedag_airflow.testing.supervisor import STATUS_FILE, send_signal, session_members

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType

__all__ = ["AirflowClient", "AirflowRequestError", "DagImportError", "LocalAirflow", "LocalAirflowError"]

_USER = "admin"
_SECRETS_FILE = "secrets.json"
_LOG_TAIL = 40
_POLL = 0.1
_HEALTH_KEYS = ("metadatabase", "scheduler", "dag_processor", "triggerer")


class LocalAirflowError(RuntimeError):
    """Airflow did not start; the message ends with what the guilty component logged last."""


class LocalAirflow:
    """One Airflow that lives in one folder.

    A home may be used again, one Airflow at a time: DAGs, runs and the login stay.

    Args:
        home: The folder, Airflow's ``AIRFLOW_HOME``; made when it is missing.
        dags_folder: Where the DAG files are; ``<home>/dags`` by default.
        env: More environment variables for all processes of Airflow.
        parallelism: How many tasks run at the same time.
        port: Port of the API server and the UI; any free one by default.
        database_url: Airflow's own database, such as ``postgresql+psycopg://postgres@127.0.0.1:5432/airflow``; a SQLite
            file in the home by default. SQLite has one writer at a time: many tasks at once wait for each other there.

    Attributes:
        home: The folder.
        dags_folder: Where the DAG files are.
        database_url: Airflow's own database, for SQLAlchemy.
        log_folder: Logs of the components (``scheduler.log``, …) and, in folders below it, of the tasks.
        url: Where API and UI are.
        username: The login's name, an admin.
        password: The login's password, random, the same for as long as the home exists.
        client: A client of the REST API with that login.
    """

    def __init__(
        self,
        home: Path | str,
        *,
        dags_folder: Path | str | None = None,
        env: Mapping[str, str] | None = None,
        parallelism: int = 4,
        port: int | None = None,
        database_url: str | None = None,
    ) -> None:
        self.home = Path(home).absolute()
        self.dags_folder = Path(dags_folder).absolute() if dags_folder is not None else self.home / "dags"
        self.log_folder = self.home / "logs"
        self.home.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.log_folder.mkdir(exist_ok=True)
        if dags_folder is None:
            self.dags_folder.mkdir(exist_ok=True)
        if not self.dags_folder.is_dir():
            raise NotADirectoryError(f"The dags folder {self.dags_folder} does not exist.")
        self._secrets = _load_secrets(self.home / _SECRETS_FILE)
        self._env = dict(env or {})
        self._parallelism = parallelism
        self._port = _free_port() if port is None else port
        self.database_url = database_url or f"sqlite:///{self.home}/airflow.db"
        self._process: subprocess.Popen[bytes] | None = None
        self.url = f"http://127.0.0.1:{self._port}"
        self.username = _USER
        self.password = self._secrets["password"]
        self.client = AirflowClient(self.url, self.username, self.password)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def running(self) -> bool:
        """Whether all components are there."""
        return self._process is not None and self._process.poll() is None

    def environ(self) -> dict[str, str]:
        """Return the environment of Airflow's processes; with it, the ``airflow`` command works on this Airflow."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("AIRFLOW_", "_AIRFLOW_"))}
        inherited.pop("PYTHONDONTWRITEBYTECODE", None)  # each task's process would compile its imports anew
        # Workers talk to the API server of this machine: no proxy may come between them.
        no_proxy = ",".join(filter(None, (inherited.get("NO_PROXY") or inherited.get("no_proxy"), "127.0.0.1")))
        settings = {f"AIRFLOW__{key}": str(value) for key, value in self._settings().items()}
        return {
            **inherited,
            "AIRFLOW_HOME": str(self.home),
            "NO_PROXY": no_proxy,
            "no_proxy": no_proxy,
            "SCARF_ANALYTICS": "false",
            **settings,
            **self._env,
        }

    def pids(self) -> dict[str, int]:
        """Return the process id of each component, for tests that kill one."""
        return {name: status["pid"] for name, status in self._status().items()}

    def start(self, timeout: float = 180) -> Self:
        """Start all components and wait until each of them reports that it is healthy.

        Args:
            timeout: Seconds to wait.

        Raises:
            LocalAirflowError: If a component ends, or is not healthy in time.
        """
        if self.running:
            raise LocalAirflowError(f"This Airflow runs already: {self.url}")
        (self.log_folder / STATUS_FILE).unlink(missing_ok=True)
        _write_private(
            self.home / "simple_auth_manager_passwords.json.generated", json.dumps({self.username: self.password})
        )
        started = datetime.now(UTC)
        try:
            self._process = self._launch()
            self._wait_until_healthy(started, timeout)
        except BaseException:  # Ctrl-C, too, must leave nothing running
            self.stop()
            raise
        return self

    def stop(self, grace: float = 10) -> None:
        """Stop everything: running tasks are asked to cancel their work, and killed when they do not.

        Args:
            grace: Seconds after which whatever is left is killed.
        """
        if self._process is None:
            return
        try:
            self._process.terminate()
            self._process.wait(grace)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """Kill all processes at once, as a power cut does."""
        process, self._process = self._process, None
        if process is None:
            return
        process.kill()
        while members := session_members(process.pid):
            send_signal(signal.SIGKILL, members)
            time.sleep(0.01)
        process.wait()

    def _launch(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-P", "-m", "pipedag_airflow.testing.supervisor", str(self.log_folder)]
        with (self.log_folder / "supervisor.log").open("ab") as log:
            return subprocess.Popen(  # noqa: S603 - our own module
                [*command, str(os.getpid())],
                cwd=self.home,
                env=self.environ(),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C reaches this process, which then stops Airflow in order
            )

    def _wait_until_healthy(self, started: datetime, timeout: float) -> None:
        begin = time.monotonic()
        missing: list[str] = list(_HEALTH_KEYS)
        while missing:
            seconds = time.monotonic() - begin
            if not self.running:
                raise LocalAirflowError(f"Airflow did not start: {self._describe_failure()}")
            if seconds > timeout:
                raise LocalAirflowError(
                    f"Not healthy after {seconds:.0f} s: {', '.join(missing)}. The logs are in {self.log_folder}"
                )
            time.sleep(_POLL)
            missing = self._unhealthy(started)
        self.client.execution_health()

    def _unhealthy(self, started: datetime) -> list[str]:
        try:
            health = self.client.health()
        except AirflowRequestError:
            return list(_HEALTH_KEYS)
        return [key for key in _HEALTH_KEYS if not _is_healthy(key, health.get(key) or {}, started)]

    def _describe_failure(self) -> str:
        exit_codes = {name: status["exit_code"] for name, status in self._status().items()}
        ended = [(name, code) for name, code in exit_codes.items() if code is not None]
        name, code = next(iter(ended), ("supervisor", self._process and self._process.returncode))
        log = self.log_folder / f"{name}.log"
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines() if log.exists() else []
        tail = "\n".join(f"  {line}" for line in lines[-_LOG_TAIL:])
        return f"its {name} ended with exit code {code}. The end of {log}:\n{tail}"

    def _status(self) -> dict[str, dict[str, Any]]:
        file = self.log_folder / STATUS_FILE
        content: dict[str, dict[str, Any]] = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {}
        return content

    def _settings(self) -> dict[str, object]:
        """Airflow's options, as the second half of their environment variables."""
        return {
            "CORE__EXECUTOR": "LocalExecutor",
            "CORE__PARALLELISM": self._parallelism,
            "CORE__DAGS_FOLDER": self.dags_folder,
            "CORE__PLUGINS_FOLDER": self.home / "plugins",
            "CORE__LOAD_EXAMPLES": False,
            "CORE__MIN_SERIALIZED_DAG_UPDATE_INTERVAL": 0,  # what the parse of a changed file finds is stored at once
            "CORE__FERNET_KEY": self._secrets["fernet_key"],
            "CORE__AUTH_MANAGER": "airflow.api_fastapi.auth.managers.simple.simple_auth_manager.SimpleAuthManager",
            "CORE__SIMPLE_AUTH_MANAGER_USERS": f"{self.username}:admin",
            "CORE__EXECUTION_API_SERVER_URL": f"{self.url}/execution/",
            **self._database(),
            "API__HOST": "127.0.0.1",
            "API__PORT": self._port,
            "API__BASE_URL": self.url,
            "API__WORKERS": 1,
            "API__SECRET_KEY": self._secrets["api_secret_key"],
            "API_AUTH__JWT_SECRET": self._secrets["jwt_secret"],
            "LOGGING__BASE_LOG_FOLDER": self.log_folder,
            "LOGGING__DAG_PROCESSOR_CHILD_PROCESS_LOG_DIRECTORY": self.log_folder / "dag_processor",
            "SCHEDULER__SCHEDULER_IDLE_SLEEP_TIME": 0.2,  # the default of 1 s is most of what a chain of tasks costs
            "WORKERS__MIN_HEARTBEAT_INTERVAL": 1,  # as long a process that has ended may keep its slot
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": 60,
            "SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": 5,
            "DAG_PROCESSOR__BUNDLE_REFRESH_CHECK_INTERVAL": 1,
            "DAG_PROCESSOR__REFRESH_INTERVAL": 1,
            # A changed file is parsed at once; this is for one that changed while it was being parsed.
            "DAG_PROCESSOR__MIN_FILE_PROCESS_INTERVAL": 10,
            "DAG_PROCESSOR__FILE_PARSING_SORT_MODE": "modified_time",
            "USAGE_DATA_COLLECTION__ENABLED": False,
        }

    def _database(self) -> dict[str, object]:
        given: dict[str, object] = {"DATABASE__SQL_ALCHEMY_CONN": self.database_url}
        if self.database_url.startswith("sqlite:"):
            # The end of a task and all asset events of it are one request: for 100 tables it takes seconds on SQLite.
            return given | {"WORKERS__EXECUTION_API_TIMEOUT": 60}
        # Airflow derives a URL for asyncpg; psycopg is there anyway, and does both.
        return given | {"DATABASE__SQL_ALCHEMY_CONN_ASYNC": self.database_url}


def _is_healthy(key: str, status: Mapping[str, Any], started: datetime) -> bool:
    if key == "metadatabase":
        return bool(status.get("status") == "healthy")
    # A home that is used again still has the heartbeats of last time.
    heartbeat = status.get(f"latest_{key}_heartbeat")
    return status.get("status") == "healthy" and bool(heartbeat) and datetime.fromisoformat(str(heartbeat)) > started


def _load_secrets(file: Path) -> dict[str, str]:
    if not file.exists():
        fresh = {
            "password": secrets.token_urlsafe(12),
            "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "api_secret_key": secrets.token_urlsafe(32),
            "jwt_secret": secrets.token_urlsafe(64),
        }
        _write_private(file, json.dumps(fresh))
    content: dict[str, str] = json.loads(file.read_text(encoding="utf-8"))
    return content


def _write_private(file: Path, text: str) -> None:
    """Write a file that only this user can read; others never see it half written or more open."""
    draft = file.with_name(f"{file.name}.new")
    draft.unlink(missing_ok=True)
    with os.fdopen(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as stream:
        stream.write(text)
    draft.replace(file)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
