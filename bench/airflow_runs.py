"""What runs on a real Airflow take at each granularity: python bench/airflow_runs.py [flights many huge].

The flights flow and a flow of 200 short queries run at each granularity, and split into a DAG for each stage, a first
time and a second time with nothing changed; a flow of 2,000 at granularity stage, and split. LocalAirflow and the flows
on PostgreSQL. Wall time from the start of the run to its end, as Airflow shows them, and the number of processes that
it started for tasks. Wall times depend on how busy the machine is, and its load is printed with them; the processes do
not.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from datetime import datetime
from http import HTTPStatus
from pathlib import Path
from typing import Any

from support.postgres import server

from pipedag_airflow.testing.airflow import AirflowRequestError, LocalAirflow

_ROOT = Path(__file__).parents[1]
_YAML = """
name: {name}
instances:
  __any__:
    instance_id: {name}
    auto_table: [pandas.DataFrame, polars.DataFrame]
    table_store:
      class: pipedag_airflow.backend.table.SQLTableStore
      args: {{url: "{url}"}}
    blob_store:
      class: pipedag_airflow.backend.blob.FileBlobStore
      args: {{base_path: "{folder}/blobs"}}
    lock_manager:
      class: pipedag_airflow.backend.lock.DatabaseLockManager
    orchestration:
      class: pipedag_airflow.engine.SequentialEngine
    airflow: {{{setting}}}
"""
_EACH = ("task", "stage", "flow", "split")
#: The granularities of each flow, and its stages and tasks of each.
FLOWS: dict[str, tuple[tuple[str, ...], int, int]] = {
    "flights": (_EACH, 0, 0),
    "many": (_EACH, 4, 50),
    "huge": (("stage", "split"), 20, 100),
}


def text_of(flow: str, name: str) -> str:
    """Return the module of a flow, under a name of its own."""
    if flow == "flights":
        return (_ROOT / "dags_examples/flights.py").read_text().replace('Flow("flights"', f'Flow("{name}"')
    _, stages, tasks = FLOWS[flow]
    text = (_ROOT / "bench/support/many_tasks.py").read_text().replace("NAME", name)
    return text.replace("STAGES)", f"{stages})").replace("TASKS)", f"{tasks})")


def run(airflow: LocalAirflow, dag_id: str) -> tuple[float, int]:
    """Run a DAG and return its seconds and the number of processes of its tasks.

    Raises:
        RuntimeError: if it fails; the message ends with the log of a task that failed.
    """
    run_id = airflow.client.trigger(dag_id)
    over: dict[str, Any] = airflow.client.wait_run(dag_id, run_id, timeout=3600)
    runs = {dag: run_id if dag == dag_id else f"part__{run_id}" for dag in parts(airflow, dag_id)}
    tasks = [task for dag, its_run in runs.items() for task in tasks_of(airflow, dag, its_run)]
    if over["state"] != "success":
        failed = next(task for task in reversed(tasks) if task["state"] == "failed")
        its_run = failed["dag_run_id"]
        log = airflow.client.log(failed["dag_id"], its_run, failed["task_id"], try_number=failed["try_number"])
        raise RuntimeError(f"The run of {dag_id} is {over['state']}: {failed['task_id']}\n{log[-5000:]}")
    begin, end = (datetime.fromisoformat(over[key]) for key in ("start_date", "end_date"))
    started = [task for task in tasks if task["try_number"] > 0]
    return (end - begin).total_seconds(), len(started)


def parts(airflow: LocalAirflow, dag_id: str) -> list[str]:
    """Return the ids of a flow's DAG and of those of its stages, if it is split."""
    return [dag_id, *(dag["dag_id"] for dag in airflow.client.dags() if dag["dag_id"].startswith(f"{dag_id}."))]


def tasks_of(airflow: LocalAirflow, dag_id: str, run_id: str) -> list[dict[str, Any]]:
    """Return the task instances of a run; none if the DAG has no such run."""
    try:
        return airflow.client.task_instances(dag_id, run_id)
    except AirflowRequestError as error:
        if error.status == HTTPStatus.NOT_FOUND:
            return []
        raise


def main(arguments: list[str]) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("flows", nargs="*", metavar="FLOW", help=f"{', '.join(FLOWS)}; all of them if none is named")
    parser.add_argument("--min-heartbeat-interval", type=int, default=1, help="[workers] min_heartbeat_interval, s")
    options = parser.parse_args(arguments)
    env = {"AIRFLOW__WORKERS__MIN_HEARTBEAT_INTERVAL": str(options.min_heartbeat_interval)}
    print("                             first run        unchanged run")
    print("                          seconds processes  seconds processes  load")
    with (
        tempfile.TemporaryDirectory() as folder,
        server() as postgres,
        postgres.database() as own,
        LocalAirflow(f"{folder}/airflow", env=env, database_url=own.replace("+psycopg2", "+psycopg")) as airflow,
    ):
        for flow in options.flows or FLOWS:
            for granularity in FLOWS[flow][0]:
                name = f"{flow}_{granularity}"
                with postgres.database() as url:
                    place = airflow.dags_folder / name
                    place.mkdir()
                    setting = "split: stage" if granularity == "split" else f"granularity: {granularity}"
                    yaml = _YAML.format(name=name, url=url, folder=place, setting=setting)
                    (place / "pipedag.yaml").write_text(yaml)
                    (place / f"{name}.py").write_text(text_of(flow, name))
                    airflow.client.wait_dag(name, timeout=300)
                    airflow.client.unpause(name)
                    first, again = run(airflow, name), run(airflow, name)
                    airflow.client.pause(name)
                figures = "  ".join(f"{seconds:7.1f} {processes:9}" for seconds, processes in (first, again))
                print(f"  {flow:10} {granularity:10} {figures}  {os.getloadavg()[0]:4.1f}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
