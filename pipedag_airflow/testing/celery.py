"""A real Airflow with workers of Celery: what runs on several machines, on one.

    with CeleryAirflow(Path("somewhere"), broker_url="redis://127.0.0.1:6379/0", database_url=url) as airflow:
        run_id = airflow.client.trigger("flights")
        airflow.workers[0].kill()
        airflow.client.wait_run("flights", run_id)

Each worker has what a machine of its own would have: its own folder, in which it works; its own copy of the DAG files;
and its own logs, which nobody else reads. What workers share, they share by the configuration of the flows.

As a program, ``python -m pipedag_airflow.testing.celery ...``, this module is one of the workers.
"""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipedag_airflow.testing.airflow import LocalAirflow, LocalAirflowError
from pipedag_airflow.testing.supervisor import die_with_parent, send_signal, session_members

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

__all__ = ["CeleryAirflow", "CeleryWorker", "main"]

_POLL = 0.1
_LOG_TAIL = 4000


class CeleryWorker:
    """One worker, as if on a machine of its own.

    Args:
        folder: All that is the worker's own; its working directory, too.
        concurrency: How many tasks it runs at the same time.

    Attributes:
        name: Its name, that of the folder.
        folder: The folder.
        dags_folder: Its copy of the DAG files, as they were when it was started.
        log_folder: Its logs, and those of the tasks that it has run.
    """

    def __init__(self, folder: Path, concurrency: int) -> None:
        self.name = folder.name
        self.folder = folder
        self.dags_folder = folder / "dags"
        self.log_folder = folder / "logs"
        self._concurrency = concurrency
        self._ready = folder / "ready"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, dags_folder: Path, env: Mapping[str, str]) -> None:
        """Start the process, with a copy of the DAG files.

        Args:
            dags_folder: The DAG files.
            env: The environment of Airflow's other processes.
        """
        self.log_folder.mkdir(parents=True, exist_ok=True)
        self._ready.unlink(missing_ok=True)
        shutil.copytree(dags_folder, self.dags_folder, dirs_exist_ok=True)
        own = {
            "AIRFLOW_HOME": str(self.folder),
            "AIRFLOW__CORE__DAGS_FOLDER": str(self.dags_folder),
            "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(self.log_folder),
            # It would have a process of its own, which lives on if the test is killed.
            "AIRFLOW__DAG_PROCESSOR__STALE_BUNDLE_CLEANUP_INTERVAL": "0",
        }
        command = [sys.executable, "-P", "-m", "pipedag_airflow.testing.celery", str(self._ready)]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603 - our own module
                [*command, self.name, str(self._concurrency)],
                cwd=self.folder,
                env={**env, **own},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def wait_until_ready(self, timeout: float) -> None:
        """Wait until the worker takes tasks.

        Args:
            timeout: Seconds to wait.

        Raises:
            LocalAirflowError: If it ends, or is not ready in time.
        """
        deadline = time.monotonic() + timeout
        while not self._ready.exists():
            if self._process is None or self._process.poll() is not None or time.monotonic() > deadline:
                end = self._log.read_text(encoding="utf-8", errors="replace")[-_LOG_TAIL:]
                raise LocalAirflowError(f"Worker {self.name} is not ready. The end of {self._log}:\n{end}")
            time.sleep(_POLL)

    def runs_process(self, pid: int) -> bool:
        """Say whether a process is one of this worker's.

        Args:
            pid: Its process id.
        """
        return self._process is not None and pid in session_members(self._process.pid)

    def tasks(self, dag_id: str, run_id: str) -> set[str]:
        """Return the tasks of a run that this worker has begun, by the logs that it has of them.

        Args:
            dag_id: The DAG.
            run_id: The run.
        """
        run = self.log_folder / f"dag_id={dag_id}" / f"run_id={run_id}"
        return {task.name.removeprefix("task_id=") for task in run.glob("task_id=*")}

    def kill(self) -> None:
        """Kill the worker and all that it has started at once, as a power cut of its machine does."""
        process, self._process = self._process, None
        if process is None:
            return
        # All of the session, as Airflow gives each task a process group of its own; and stopped before any of them is
        # killed, as otherwise one may see another one die, and tell Airflow of it.
        send_signal(signal.SIGSTOP, session_members(process.pid))
        while members := session_members(process.pid):
            send_signal(signal.SIGKILL, members)
            time.sleep(0.01)
        process.wait()

    @property
    def _log(self) -> Path:
        return self.log_folder / "worker.log"


class CeleryAirflow(LocalAirflow):
    """A :class:`LocalAirflow` whose tasks are run by workers of Celery.

    Args:
        home: The folder, Airflow's ``AIRFLOW_HOME``; those of the workers are below it.
        broker_url: The Redis that brings tasks to the workers.
        database_url: Airflow's own database, which also has the results for Celery.
        workers: How many workers.
        concurrency: How many tasks each of them runs at the same time.
        dags_folder: Where the DAG files are; ``<home>/dags`` by default. Workers get copies when they are started.
        env: More environment variables for all processes of Airflow.

    Attributes:
        workers: The workers.
    """

    def __init__(
        self,
        home: Path | str,
        *,
        broker_url: str,
        database_url: str,
        workers: int = 2,
        concurrency: int = 2,
        dags_folder: Path | str | None = None,
        env: Mapping[str, str] | None = None,
    ) -> None:
        parallelism = workers * concurrency
        super().__init__(home, dags_folder=dags_folder, env=env, parallelism=parallelism, database_url=database_url)
        self.broker_url = broker_url
        self.workers = [CeleryWorker(self.home / f"worker-{n}", concurrency) for n in range(1, workers + 1)]

    def stop(self, grace: float = 10) -> None:
        """Stop everything; workers are killed when the rest is gone.

        Args:
            grace: Seconds after which whatever is left is killed.
        """
        super().stop(grace)
        self._kill_workers()

    def kill(self) -> None:
        """Kill all processes at once, as a power cut does."""
        super().kill()
        self._kill_workers()

    def _kill_workers(self) -> None:
        for worker in self.workers:
            worker.kill()

    def _launch(self) -> subprocess.Popen[bytes]:
        for worker in self.workers:
            worker.start(self.dags_folder, self.environ())
        return super()._launch()

    def _wait_until_healthy(self, started: datetime, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        super()._wait_until_healthy(started, timeout)
        for worker in self.workers:
            worker.wait_until_ready(deadline - time.monotonic())

    def _settings(self) -> dict[str, object]:
        return super()._settings() | {
            "CORE__EXECUTOR": "CeleryExecutor",
            "CELERY__BROKER_URL": self.broker_url,
            "CELERY__RESULT_BACKEND": f"db+{self.database_url}",
            # A task may have been on its way to a worker that died then.
            "SCHEDULER__TASK_QUEUED_TIMEOUT": 60,
            "SCHEDULER__TASK_QUEUED_TIMEOUT_CHECK_INTERVAL": 5,
        }


def main(argv: Sequence[str] | None = None) -> None:
    """Be a worker; the arguments are the file that says that it is ready, its name, and its concurrency."""
    ready, name, concurrency = sys.argv[1:] if argv is None else argv
    die_with_parent(signal.SIGKILL)
    from airflow.__main__ import main as airflow_main
    from celery.signals import worker_ready

    def say_so(**_: Any) -> None:
        Path(ready).touch()

    worker_ready.connect(say_so, weak=False)
    # Logs are read from the folder: two workers on one machine would want the same port to serve them.
    command = ("celery", "worker", "--skip-serve-logs", "--concurrency", concurrency)
    sys.argv = ["airflow", *command, "--celery-hostname", f"{name}@%h"]
    airflow_main()


if __name__ == "__main__":
    main()
