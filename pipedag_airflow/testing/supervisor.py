"""The process that keeps Airflow's four components alive, and takes all of them with it when it ends.

It is started by :class:`pipedag_airflow.testing.airflow.LocalAirflow` as ``python -m pipedag_airflow.testing.supervisor
LOG_FOLDER PARENT_PID`` and gets everything else from Airflow's own environment variables.

Airflow is imported once and the components are forked from that process: four separate commands would import it four
times, which is most of what their start costs. While the database is made, the API server, the slowest of the four,
already imports its routes. What tasks import is there, too: a LocalExecutor forks a process for each task, of whose
processor time more than half would be imports.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import json
import os
import signal
import sys
import time
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

__all__ = ["COMPONENTS", "STATUS_FILE", "Supervisor", "die_with_parent", "main", "send_signal", "session_members"]

COMPONENTS = {
    # Logs are read from the folder: no component needs Airflow's log server, whose fixed port another Airflow may have.
    "api-server": ("api-server",),
    "scheduler": ("scheduler", "--skip-serve-logs"),
    "dag-processor": ("dag-processor",),
    "triggerer": ("triggerer", "--skip-serve-logs"),
}
"""Name of each component, and the arguments of its Airflow command."""

STATUS_FILE = "components.json"
"""The file in the log folder that tells each component's process id and, when it has ended, its exit code."""

_OF_TASKS = (
    "pipedag_airflow.provider.dag",
    "pipedag_airflow.provider.run_operators",
    "pipedag_airflow.run.launch",
    "duckdb_sqlalchemy",
    "psycopg2",
    "polars",
    "pandas",
    "pyarrow",
)
"""Modules that tasks import, as far as they are installed."""

_GRACE = 3.0
_POLL = 0.05
_PR_SET_PDEATHSIG = 1
_PR_SET_CHILD_SUBREAPER = 36


class Supervisor:
    """Start the components, watch them, stop them.

    Args:
        log_folder: Where each component's output goes, as ``<component>.log``.
        parent: The process for which all this is done: when it is gone, however it ended, everything ends.
    """

    def __init__(self, log_folder: Path, parent: int) -> None:
        self.log_folder = log_folder
        self.parent = parent
        self.pids: dict[str, int] = {}
        self.exit_codes: dict[str, int] = {}

    def run(self) -> int:
        """Run until asked to stop, until the parent is gone, or until a component ends by itself; return the exit code.

        A component that is killed is started again, as what looks after a component does that has run out of memory.
        """
        _prctl(_PR_SET_CHILD_SUBREAPER, 1)  # orphans of the components become children of ours, which we can reap
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, _leave)
        try:
            self._start()
            while not self.exit_codes and os.getppid() == self.parent:
                time.sleep(_POLL)
                self._reap()
                self._revive_killed()
            return 1
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            self._stop()

    def _start(self) -> None:
        # Importing makes many objects and hardly any garbage; looking for it every 700 objects costs a second.
        gc.set_threshold(100_000, 20, 20)
        import airflow.__main__
        import airflow.utils.db

        database_is_there, say_so = os.pipe()
        self._fork("api-server", partial(_serve_api, database_is_there, say_so))
        import airflow.dag_processing.manager
        import airflow.jobs.scheduler_job_runner
        import airflow.jobs.triggerer_job_runner  # noqa: F401 - loaded here, once, for the processes that are forked off

        for module in _OF_TASKS:
            with contextlib.suppress(ImportError):
                import_module(module)
        if self._migrate():
            os.close(say_so)
            for name in COMPONENTS:
                if name not in self.pids:
                    self._fork(name, partial(_command, name))
            self._write_status()

    def _migrate(self) -> bool:
        """Bring the database to this version of Airflow in a process of its own, so that no connection is inherited."""
        migration = self._fork("migration", _migrate)
        exit_code = os.waitstatus_to_exitcode(os.waitpid(migration, 0)[1])
        if exit_code != 0:
            self._record("migration", exit_code)
            return False
        del self.pids["migration"]
        return True

    def _fork(self, name: str, work: Callable[[], None]) -> int:
        """Run `work` in a child whose output goes to the component's own log."""
        with _signals_blocked():  # or the child could start to unwind this process's stack
            pid = os.fork()
            if pid == 0:
                _be_child(self.log_folder / f"{name}.log", work)
        self.pids[name] = pid
        return pid

    def _reap(self) -> bool:
        """Collect whoever has ended, and say whether any child is left."""
        with contextlib.suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                for name, known in self.pids.items():
                    if known == pid:
                        self._record(name, os.waitstatus_to_exitcode(status))
        return False

    def _revive_killed(self) -> None:
        for name in COMPONENTS:
            if self.exit_codes.get(name) == -signal.SIGKILL:
                del self.exit_codes[name]
                self._fork(name, partial(_command, name))
                self._write_status()

    def _record(self, name: str, exit_code: int) -> None:
        self.exit_codes[name] = exit_code
        self._write_status()

    def _write_status(self) -> None:
        status = {name: {"pid": pid, "exit_code": self.exit_codes.get(name)} for name, pid in self.pids.items()}
        draft = self.log_folder / f"{STATUS_FILE}.new"
        draft.write_text(json.dumps(status), encoding="utf-8")
        draft.replace(self.log_folder / STATUS_FILE)

    def _stop(self) -> None:
        """End everything in this session: tasks are asked to cancel their work, then the API they report to ends."""
        api_server, triggerer = (self.pids.get(name) for name in ("api-server", "triggerer"))
        deadline = time.monotonic() + _GRACE
        self._ask({api_server}, {triggerer}, deadline)
        if triggerer is not None:
            # Airflow's triggerer waits ten seconds for a child that has ended; nothing depends on its last words.
            send_signal(signal.SIGKILL, [triggerer])
        self._ask(set(), set(), deadline)
        for pid in _others():
            sys.stderr.write(f"Killed after {_GRACE} s: {pid} {_command_line(pid)}\n")
        while self._reap():
            send_signal(signal.SIGKILL, _others())
            time.sleep(_POLL)

    def _ask(self, spare: set[int | None], do_not_await: set[int | None], deadline: float) -> None:
        """Send SIGTERM to all but the spared, and wait until they are gone."""
        asked: set[int] = set()
        while time.monotonic() < deadline:
            self._reap()
            members = set(_others()) - spare
            send_signal(signal.SIGTERM, members - asked)
            asked |= members
            if not members - do_not_await:
                return
            time.sleep(_POLL)


def session_members(session: int) -> list[int]:
    """Return the processes of a session that are still alive (a zombie is not)."""
    return [pid for pid in _all_pids() if _session_of(pid) == session]


def send_signal(number: signal.Signals, pids: Iterable[int]) -> None:
    """Send a signal to processes, some of which may be gone already."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def die_with_parent(number: signal.Signals) -> None:
    """Have this process get a signal when its parent ends, however that ends; only Linux can."""
    _prctl(_PR_SET_PDEATHSIG, number)


def _all_pids() -> list[int]:
    if Path("/proc/self/stat").exists():
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]
    with os.popen("ps -A -o pid=") as listing:  # noqa: S605, S607 - a constant command
        return [int(line) for line in listing]


def _session_of(pid: int) -> int | None:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return None if fields[0] == "Z" else int(fields[3])
    except FileNotFoundError:
        with contextlib.suppress(OSError):
            return os.getsid(pid)
    except OSError:
        pass
    return None


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    return ""


def _others() -> list[int]:
    return [pid for pid in session_members(os.getsid(0)) if pid != os.getpid()]


def _leave(number: int, _frame: object) -> NoReturn:
    raise SystemExit(128 + number)


@contextlib.contextmanager
def _signals_blocked() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGTERM, signal.SIGINT))
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _be_child(log_file: Path, work: Callable[[], None]) -> NoReturn:
    code: Any = 1
    try:
        die_with_parent(signal.SIGTERM)  # so that killing the supervisor outright stops the components too
        log = os.open(log_file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        os.dup2(log, 1)
        os.dup2(log, 2)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
        work()
        code = 0
    except SystemExit as stop:
        code = stop.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code if isinstance(code, int) else 1)


def _prctl(option: int, value: int) -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0)


def _migrate() -> None:
    from airflow.utils import db
    from airflow.utils.providers_configuration_loader import providers_configuration_loaded

    providers_configuration_loaded(db.initdb)()


def _serve_api(database_is_there: int, say_so: int) -> None:
    import airflow.api_fastapi.core_api.routes.public
    import airflow.api_fastapi.core_api.routes.ui
    import airflow.api_fastapi.execution_api.routes  # noqa: F401 - loaded here, once, for the processes that are forked off

    os.close(say_so)
    os.read(database_is_there, 1)  # returns when the supervisor, the other writer, closes its end
    _command("api-server")


def _command(name: str) -> None:
    from airflow.__main__ import main as airflow_main

    sys.argv = ["airflow", *COMPONENTS[name]]
    airflow_main()


def main(argv: Sequence[str] | None = None) -> int:
    """Run a supervisor; the arguments are the log folder and the parent's process id."""
    log_folder, parent = sys.argv[1:] if argv is None else argv
    return Supervisor(Path(log_folder), int(parent)).run()


if __name__ == "__main__":
    sys.exit(main())
