"""Run by test_lost_locks.py as a process of its own, which is paused in its task: python paused_flow.py RUN_ID FOLDER.

The environment variable PIPEDAG_CONFIG names the configuration. With a run id of Airflow's these are steps of that run,
else it is a local run.
"""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import Any

import polars as pl

from pipedag_airflow import Flow, PipedagConfig, Stage, Table, materialize
from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.run.begin import begin
from pipedag_airflow.run.execute import execute
from pipedag_airflow.run.publish import publish
from pipedag_airflow.run.session import RunSession

run_id, folder = sys.argv[1], Path(sys.argv[2])


@materialize(version=run_id)
def one() -> Table[Any]:
    (folder / "working").touch()
    while not (folder / "go").exists():
        time.sleep(0.01)
    return Table(pl.DataFrame({"run": [run_id]}), "one")


with Flow("paused") as flow, Stage("stage"):
    one()

if run_id.startswith("airflow:"):
    session = RunSession(flow, PipedagConfig.find(folder).get(), Owner.of_run(run_id), engine="test")
    begin(session, "stage")
    execute(session, "stage.one")
    publish(session, "stage")
else:
    flow.run()
