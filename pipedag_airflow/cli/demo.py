"""``pipedag-airflow demo`` shows a flow running on a real Airflow, twice; ``pipedag-airflow airflow`` lets one play."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator

    from pipedag_airflow.cli.home import DemoHome
    from pipedag_airflow.cli.watch import Narrator, RunReport
    from pipedag_airflow.testing.airflow import LocalAirflow

__all__ = ["register"]

_LOG_TAIL = 30


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the commands of this module.

    Args:
        commands: The commands of the parser.
    """
    demo = commands.add_parser("demo", help="run an example flow on a real Airflow, twice, and show what happened")
    demo.add_argument("--flow", default="flights", help="name of the flow (default: %(default)s)")
    demo.add_argument("--keep", action="store_true", help="keep Airflow running afterwards, until Ctrl-C")
    demo.set_defaults(run=lambda arguments: _in_home(arguments, _demo))
    play = commands.add_parser("airflow", help="run a local Airflow on a folder of flows, until Ctrl-C")
    play.add_argument("--port", type=int, help="port of the UI (default: any free one)")
    play.set_defaults(run=lambda arguments: _in_home(arguments, _play))
    for parser in (demo, play):
        parser.add_argument(
            "--dags", type=Path, default=Path("dags_examples"), help="folder of the flows (default: %(default)s)"
        )
        parser.add_argument(
            "--home",
            type=Path,
            default=Path(".airflow-demo"),
            help="folder for Airflow and for the data of the flows (default: %(default)s)",
        )


def _in_home(arguments: argparse.Namespace, work: Callable[[argparse.Namespace, DemoHome, Narrator], int]) -> int:
    """Do the work in the home; what can go wrong is told in a line or two, not with a traceback of ours."""
    from pipedag_airflow.cli.home import DemoHome, DemoHomeError
    from pipedag_airflow.cli.watch import Narrator
    from pipedag_airflow.testing.airflow import AirflowRequestError, DagImportError, LocalAirflowError

    narrator = Narrator()
    try:
        with DemoHome(arguments.home) as home:
            return work(arguments, home, narrator)
    except (DemoHomeError, LocalAirflowError, AirflowRequestError, DagImportError, OSError) as error:
        sys.stderr.write(f"\npipedag-airflow: {error}\n")
        return 1


def _demo(arguments: argparse.Namespace, home: DemoHome, narrator: Narrator) -> int:
    home.empty()
    with _airflow(arguments, home, narrator) as airflow:
        narrator.say(f"Waiting until Airflow has read the DAG {arguments.flow!r} from {arguments.dags}")
        dag = airflow.client.wait_dag(arguments.flow)
        airflow.client.unpause(arguments.flow)
        first = _run(airflow, arguments.flow, "First run", narrator)
        if first.state != "success" or not _show_stages(dag["fileloc"], arguments.flow, home, narrator):
            return 1
        _show_login(airflow, narrator)
        second = _run(airflow, arguments.flow, "Second run, nothing changed", narrator)
        _compare(first, second, narrator)
        if arguments.keep:
            _wait_for_interrupt(airflow, narrator)
    again = f"{sys.executable} -m pipedag_airflow.cli airflow --dags {arguments.dags} --home {arguments.home}"
    narrator.say("Airflow is stopped. To start it again, with these runs and tables:")
    narrator.say(f"  {again}")
    return 0 if second.state == "success" else 1


def _play(arguments: argparse.Namespace, home: DemoHome, narrator: Narrator) -> int:
    with _airflow(arguments, home, narrator) as airflow:
        _show_login(airflow, narrator)
        _wait_for_interrupt(airflow, narrator)
    return 1


@contextmanager
def _airflow(arguments: argparse.Namespace, home: DemoHome, narrator: Narrator) -> Iterator[LocalAirflow]:
    from pipedag_airflow.testing.airflow import LocalAirflow

    narrator.say(f"Starting Airflow in {home.airflow}: API server, scheduler, DAG processor, triggerer")
    environment = {"PIPEDAG_HOME": str(home.data)}
    port = getattr(arguments, "port", None)
    with LocalAirflow(home.airflow, dags_folder=arguments.dags, env=environment, port=port) as airflow:
        narrator.say(f"Airflow is ready: {airflow.url}")
        yield airflow


def _run(airflow: LocalAirflow, dag_id: str, title: str, narrator: Narrator) -> RunReport:
    from pipedag_airflow.cli.watch import watch_run

    run_id = airflow.client.trigger(dag_id)
    narrator.say(f"{title}: {run_id}")
    report = watch_run(airflow.client, dag_id, run_id, narrator)
    narrator.say(f"{title}: {report.state} after {report.seconds:.1f} s")
    for task in report.failed:
        log = airflow.client.log(dag_id, run_id, task["task_id"], try_number=task["try_number"])
        tail = "\n".join(f"  {line}" for line in log.splitlines()[-_LOG_TAIL:])
        narrator.write(f"\n{task['task_id']} failed. The end of its log:\n{tail}\n")
    return report


def _show_stages(flow_file: str, flow: str, home: DemoHome, narrator: Narrator) -> bool:
    """Print the published stages in a process with the environment that the tasks had."""
    narrator.write(f"\nPublished in {home.data}:\n")
    command = [sys.executable, "-m", "pipedag_airflow.run.summary", flow_file, flow]
    done = subprocess.run(command, env={**os.environ, "PIPEDAG_HOME": str(home.data)}, check=False)  # noqa: S603 - our own module
    if done.returncode != 0:
        narrator.say(f"The summary ended with exit code {done.returncode}: {' '.join(command)}")
    return done.returncode == 0


def _show_login(airflow: LocalAirflow, narrator: Narrator) -> None:
    narrator.write(f"\nAirflow's UI: {airflow.url}  user {airflow.username}  password {airflow.password}\n")


def _compare(first: RunReport, second: RunReport, narrator: Narrator) -> None:
    if second.all_valid:
        narrator.say(f"Everything was valid: {second.skipped} of {len(second.tasks)} tasks were skipped")
    rows = (
        ("", "first run", "second run"),
        ("seconds", f"{first.seconds:.1f}", f"{second.seconds:.1f}"),
        ("task processes started", str(first.processes), str(second.processes)),
        ("skipped, because valid", str(first.skipped), str(second.skipped)),
    )
    table = "\n".join(f"  {name:<22}  {one:>10}  {two:>10}".rstrip() for name, one, two in rows)
    narrator.write(f"\n{table}\n")


def _wait_for_interrupt(airflow: LocalAirflow, narrator: Narrator) -> None:
    narrator.say("Airflow keeps running. Press Ctrl-C to stop it.")
    while airflow.running:
        time.sleep(0.5)
    narrator.say(f"Airflow ended by itself. Its logs: {airflow.log_folder}")
