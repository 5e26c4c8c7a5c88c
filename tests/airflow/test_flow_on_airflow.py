"""Flows on the real Airflow: what it shows of every task instance, what is in the metadata and what readers see agree.

Every run that a test waits for is compared with the metadata and the database: `FlowFolder.check`.
"""

from __future__ import annotations

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from pipedag_airflow.testing.airflow import DagImportError

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import FlowAirflow, FlowFolder, FlowRun

pytestmark = pytest.mark.airflow

CHAIN = '''
import polars as pl
import sqlalchemy as sa
from pipedag_airflow import Flow, Stage, Table, materialize


@materialize(version="1")
def numbers():
    """Read the numbers."""
    return Table(pl.DataFrame({"n": [1, 2, 3]}), "numbers", primary_key="n")


@materialize(version="VERSION", input_type=pl.DataFrame)
def doubled(table):
    return Table(table.with_columns(n2=pl.col("n") * 2, version=pl.lit("VERSION")), "doubled")


@materialize(lazy=True, input_type=sa.Table)
def large(table):
    return Table(sa.select(table).where(table.c.n2 > 2), "large")


@materialize(version="1", airflow={"docs_url": "https://example.org/words"})
def words():
    return Table(pl.DataFrame({"w": ["a", "b"]}), "words")


@materialize(version="1", input_type=pl.DataFrame)
def report(table):
    return Table(table, "report")


@materialize(version="1", input_type=pl.DataFrame)
def glossary(table):
    return Table(table, "glossary")


with Flow("chain") as flow:
    with Stage("ingest"):
        n, w = numbers(), words()
        big = large(doubled(n))
    with Stage("out"):
        report(big)
        glossary(w)
'''

BEGINS = {"ingest.begin_transaction", "out.begin_transaction"}
COMMITS = {"ingest.commit_transaction", "out.commit_transaction"}
TASKS = {"ingest.numbers", "ingest.doubled", "ingest.large", "ingest.words", "out.report", "out.glossary"}


@pytest.fixture(scope="module")
def chain(flows: Callable[[str], FlowFolder]) -> SimpleNamespace:
    """The history of one flow: a first run, an unchanged one, a version bump in the middle, and a cleared task."""
    folder = flows("chain")
    folder.write(CHAIN.replace("VERSION", "1"))
    first, first_live, first_tables = folder.run(), folder.live(), folder.tables()
    unchanged, unchanged_live = folder.run(), folder.live()
    folder.write(CHAIN.replace("VERSION", "2"))
    bumped, bumped_versions = folder.run(), folder.query("select distinct version from out.report")
    bumped_live = folder.live()
    cleared = folder.clear(bumped, "ingest.words")
    return SimpleNamespace(**locals())


def links(folder: FlowFolder, run: FlowRun, node: str) -> dict[str, str | None]:
    instance = f"/api/v2/dags/{run.dag_id}/dagRuns/{quote(run.run_id)}/taskInstances/{node}"
    shown: dict[str, str | None] = folder.client.request("GET", f"{instance}/links")["extra_links"]
    return shown


class TestChain:
    def test_the_first_run_executes_everything(self, chain: SimpleNamespace) -> None:
        assert chain.first.state == "success"
        assert set(chain.first.states.values()) == {"success"}
        assert set(chain.first.states) == TASKS | BEGINS | COMMITS
        assert chain.first_live == {"ingest": 1, "out": 1}
        assert chain.first_tables == {
            "ingest.numbers": 3,
            "ingest.doubled": 3,
            "ingest.large": 2,
            "ingest.words": 2,
            "out.report": 2,
            "out.glossary": 2,
        }

    def test_the_logs_have_each_decision_with_its_reason_and_each_table_with_its_rows(
        self, chain: SimpleNamespace
    ) -> None:
        log = chain.folder.log(chain.first, "ingest.numbers")
        assert "ingest.numbers: runs (first_run)" in log
        assert re.search(r"ingest\.numbers: table numbers, 3 rows, stored in ingest__g1$", log, re.MULTILINE)
        published = chain.folder.log(chain.first, "ingest.commit_transaction")
        assert len(re.findall(r"Stage ingest: table \w+, \d rows, from ingest__g1", published)) == 4
        assert "ingest.numbers: valid" in chain.folder.log(chain.unchanged, "ingest.begin_transaction")
        assert "runs (version_changed): " in chain.folder.log(chain.bumped, "ingest.doubled")

    def test_an_unchanged_run_starts_a_process_for_each_begin_and_for_nothing_else(
        self, chain: SimpleNamespace
    ) -> None:
        assert chain.unchanged.state == "success"
        assert chain.unchanged.processes == BEGINS
        assert chain.unchanged.skipped == TASKS | COMMITS
        assert chain.unchanged_live == chain.first_live

    def test_a_task_shows_its_inputs_and_its_query_and_links_to_its_tables_and_those_of_the_run_before(
        self, chain: SimpleNamespace
    ) -> None:
        client, run = chain.folder.client, chain.bumped
        shown = run.tasks["ingest.large"]["rendered_fields"]
        assert shown["inputs"]["table"].startswith("table ingest.doubled, generation ")
        assert shown["sql"].startswith("-- large\nSELECT ")
        instance = f"/api/v2/dags/chain/dagRuns/{quote(run.run_id)}/taskInstances/ingest.large"
        shown = links(chain.folder, run, "ingest.large")
        assert shown["Tables"].endswith(f"/dags/chain/runs/{quote(run.run_id, safe='')}/tasks/ingest.large/xcom")
        assert f"/runs/{quote(chain.first.run_id, safe='')}/" in shown["Tables of the run before"]
        assert shown["Generation"].endswith("/tasks/ingest.commit_transaction/xcom")
        told = client.request("GET", f"{instance}/xcomEntries/return_value?deserialize=true")["value"]
        assert told["tables"]["large"]["rows"] == 2

    def test_a_task_that_begin_skips_has_links_to_its_tables_to_the_run_that_made_them_and_to_its_documents(
        self, chain: SimpleNamespace
    ) -> None:
        def page(run: FlowRun, node: str) -> str:
            return f"{chain.folder.airflow.url}/dags/chain/runs/{quote(run.run_id, safe='')}/tasks/{node}/xcom"

        first, unchanged, bumped = chain.first, chain.unchanged, chain.bumped
        assert links(chain.folder, unchanged, "ingest.words") == {
            "Tables": page(unchanged, "ingest.begin_transaction"),
            "Tables of the run before": page(first, "ingest.words"),
            "Generation": page(first, "ingest.commit_transaction"),
            "Docs": "https://example.org/words",
        }
        # Where the run publishes the stage, its own commit says what readers see.
        assert links(chain.folder, bumped, "ingest.numbers") == {
            "Tables": page(bumped, "ingest.begin_transaction"),
            "Tables of the run before": page(first, "ingest.numbers"),
            "Generation": page(bumped, "ingest.commit_transaction"),
            "Docs": None,
        }
        assert links(chain.folder, unchanged, "ingest.commit_transaction")["Generation"] == page(
            first, "ingest.commit_transaction"
        )
        begin = f"/api/v2/dags/chain/dagRuns/{quote(unchanged.run_id)}/taskInstances/ingest.begin_transaction"
        told = chain.folder.client.request("GET", f"{begin}/xcomEntries/skipped?deserialize=true")["value"]
        assert told["ingest.numbers"]["tables"] == {"numbers": {"schema": "ingest__g1", "rows": 3}}

    def test_a_version_bump_in_the_middle_runs_exactly_the_dependants(self, chain: SimpleNamespace) -> None:
        assert chain.bumped.state == "success"
        assert chain.bumped.executed == {"ingest.doubled", "ingest.large", "out.report"}
        assert chain.bumped.skipped == {"ingest.numbers", "ingest.words", "out.glossary"}
        assert not chain.bumped.processes & chain.bumped.skipped
        assert chain.bumped_versions == [("2",)]

    def test_clearing_a_valid_task_with_all_that_follows_builds_it_and_its_consumers_anew(
        self, chain: SimpleNamespace
    ) -> None:
        assert chain.cleared.state == "success"
        assert "runs (forced)" in chain.folder.log(chain.cleared, "ingest.words")
        assert chain.cleared.executed - chain.bumped.executed == {"ingest.words", "out.glossary"}
        assert chain.cleared.tasks["ingest.numbers"]["try_number"] == 0
        assert chain.cleared.tasks["ingest.doubled"]["try_number"] == 1
        # What was not cleared stays published with the rest of the stage; the reader of nothing new is skipped.
        assert chain.cleared.states["out.report"] == "skipped"
        assert chain.folder.live().keys() == chain.bumped_live.keys()
        assert all(number > chain.bumped_live[stage] for stage, number in chain.folder.live().items())


MENDED = """
import polars as pl
from pipedag_airflow import Flow, Stage, Table, materialize


@materialize(version="VERSION")
def good():
    return Table(pl.DataFrame({"x": [1, 2], "version": "VERSION"}), "good")


@materialize(version="1", input_type=pl.DataFrame)
def risky(table):
    BODY
    return Table(table, "risky")


@materialize(version="1", input_type=pl.DataFrame)
def after(table):
    return Table(table, "after")


with Flow("mended") as flow:
    with Stage("first"):
        made = risky(good())
    with Stage("second"):
        after(made)
"""


class TestFailure:
    def test_mended_and_cleared_and_mended_for_the_next_run(self, flows: Callable[[str], FlowFolder]) -> None:
        folder = flows("mended")
        broken, mended = "raise ZeroDivisionError('on purpose')", "pass"

        folder.write(MENDED.replace("VERSION", "1").replace("BODY", broken))
        run = folder.run()
        assert run.state == "failed"
        assert run.states["first.risky"] == "failed"
        assert folder.tables() == {}
        assert "ZeroDivisionError: on purpose" in folder.log(run, "first.risky")
        # Nobody has to ask for it: a local run, for example, could not find out that the run is over.
        folder.wait_until_free()

        folder.write(MENDED.replace("VERSION", "1").replace("BODY", mended))
        run = folder.clear(run, "first.risky")
        assert run.state == "success"
        assert run.tasks["first.good"]["try_number"] == 1
        assert run.tasks["first.risky"]["try_number"] == 2
        assert folder.tables() == {"first.good": 2, "first.risky": 2, "second.after": 2}

        folder.write(MENDED.replace("VERSION", "2").replace("BODY", broken))
        assert folder.run().state == "failed"
        assert folder.query("select distinct version from second.after union select version from first.good") == [
            ("1",)
        ]

        # The next run takes over from the failed one at once, with what that one had finished.
        folder.write(MENDED.replace("VERSION", "2").replace("BODY", mended))
        run = folder.run()
        assert run.state == "success"
        assert run.executed == {"first.risky", "second.after"}
        assert "Waiting for stage" not in folder.log(run, "first.begin_transaction")
        assert folder.query("select distinct version from second.after") == [("2",)]


AUDITED = """
import polars as pl
from pipedag_airflow import Flow, Stage, Table, input_stage_versions, materialize


@materialize(version="ROWS")
def orders():
    return Table(pl.DataFrame({"id": range(ROWS)}), "orders")


@input_stage_versions(input_type=pl.DataFrame, version="1")
def nothing_gets_lost(tables, published):
    if published:
        before, now = len(published["orders"]), len(tables["orders"])
        assert now >= before, f"{before} orders before, {now} now"


with Flow("audited") as flow, Stage("clean"):
    orders()
    nothing_gets_lost()
"""


def test_an_audit_that_fails_keeps_its_stage_from_being_published(flows: Callable[[str], FlowFolder]) -> None:
    folder = flows("audited")
    folder.write(AUDITED.replace("ROWS", "3"))
    assert set(folder.run().states.values()) == {"success"}

    folder.write(AUDITED.replace("ROWS", "2"))
    run = folder.run()
    assert run.state == "failed"
    assert run.states["clean.nothing_gets_lost"] == "failed"
    assert run.states["clean.commit_transaction"] == "upstream_failed"
    log = folder.log(run, "clean.nothing_gets_lost")
    assert "AssertionError: 3 orders before, 2 now" in log
    assert "so stage clean is not published; readers see generation 1 as before" in log
    assert folder.tables() == {"clean.orders": 3}


NESTED = """
import polars as pl
import sqlalchemy as sa
from pipedag_airflow import Flow, Stage, Table, materialize


@materialize(version="1")
def source():
    return Table(pl.DataFrame({"a": [1, 2, 3]}), "source")


@materialize(lazy=True, input_type=sa.Table)
def part(table):
    BODY
    return Table(sa.select(table).where(table.c.a > LIMIT), "part")


@materialize(version="1", input_type=sa.Table)
def report(outer, inner):
    return Table(sa.select(inner), "report")


with Flow("nested") as flow:
    with Stage("outer"):
        s = source()
        with Stage("inner"):
            p = part(s)
    with Stage("out"):
        report(s, p)
"""


class TestNestedStages:
    def test_around_a_nested_stage_that_changed_and_one_that_fails(self, flows: Callable[[str], FlowFolder]) -> None:
        folder = flows("nested")
        folder.write(NESTED.replace("LIMIT", "0").replace("BODY", "pass"))
        assert set(folder.run().states.values()) == {"success"}

        folder.write(NESTED.replace("LIMIT", "1").replace("BODY", "pass"))
        run = folder.run()
        assert run.state == "success"
        assert run.executed == {"inner.part", "out.report"}
        assert folder.query("select a from out.report order by a") == [(2,), (3,)]

        # Nothing to do for the stage around, and yet the run must not look as if all were well.
        folder.write(NESTED.replace("LIMIT", "1").replace("BODY", "raise ZeroDivisionError"))
        run = folder.run()
        assert run.state == "failed"
        assert run.states["inner.part"] == "failed"
        assert run.states["outer.commit_transaction"] == "upstream_failed"
        assert folder.query("select count(*) from out.report") == [(2,)]

        folder.write(NESTED.replace("LIMIT", "1").replace("BODY", "pass"))
        run = folder.run()
        assert run.state == "success"
        assert run.processes == {f"{stage}.begin_transaction" for stage in ("outer", "inner", "out")}


SHARED = """
import time
from pathlib import Path

import polars as pl
from pipedag_airflow import Flow, Stage, Table, materialize


@materialize(version="1")
def slow_FLOW():
    deadline = time.monotonic() + 60
    while not Path("GO").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return Table(pl.DataFrame({"x": [1]}), "of_FLOW")


@materialize(version="1", input_type=pl.DataFrame)
def reader(table):
    return Table(table, "read_by_FLOW")


with Flow("FLOW") as flow:
    with Stage("shared"):
        made = slow_FLOW()
    with Stage("reader_of_FLOW"):
        reader(made)
"""


def test_a_second_flow_waits_without_a_slot_for_a_stage_that_the_first_one_holds(
    flows: Callable[[str], FlowFolder],
) -> None:
    folder = flows("shared")
    go = folder.data / "go"
    for name in ("left", "right"):
        folder.write(SHARED.replace("FLOW", name).replace("GO", str(go)), flow=name)

    left = folder.client.trigger("left")
    folder.wait_task("left", left, "shared.slow_left", "running")
    right = folder.client.trigger("right")
    folder.wait_task("right", right, "shared.begin_transaction", "deferred")
    assert folder.client.states("left", left)["shared.slow_left"] == "running"
    go.touch()

    first = folder.client.wait_run("left", left, timeout=120)
    second = folder.finished(right, "right")
    assert (first["state"], second.state) == ("success", "success")
    log = folder.client.log("right", right, "shared.begin_transaction", try_number=1)
    assert "Waiting for stage shared: Stage 'shared' is held by run airflow:left/" in log
    # A stage is what the run made that published it last; what others derived from it before stays.
    assert folder.tables() == {
        "shared.of_right": 1,
        "reader_of_left.read_by_left": 1,
        "reader_of_right.read_by_right": 1,
    }


BROKEN = """
from pipedag_airflow import Flow, Stage, materialize


@materialize(version="1")
def load(columns):
    return 1


with Flow("broken_flow") as flow, Stage("raw"):
    load({"a", "b"})
"""


def test_a_flow_that_cannot_be_compiled_is_an_import_error_that_says_what_to_mend(
    airflow: FlowAirflow, chain: SimpleNamespace
) -> None:
    file = airflow.dags_folder / "broken_flow.py"
    file.write_text(BROKEN)
    with pytest.raises(DagImportError) as caught:
        airflow.client.wait_dag("broken_flow", file="broken_flow.py")
    for named in ("UnsupportedValueError", "broken_flow", "raw.load", "columns", "set"):
        assert named in str(caught.value)
    assert chain.folder.name in {dag["dag_id"] for dag in airflow.client.dags()}
    assert {error["filename"] for error in airflow.client.import_errors()} == {"broken_flow.py"}
    file.unlink()


def test_a_second_file_with_the_flow_is_an_error_of_both_and_the_run_goes_on_when_it_is_gone(
    flows: Callable[[str], FlowFolder],
) -> None:
    folder = flows("namesake")
    go, copy, original = folder.data / "go", folder.folder / "namesake_copy.py", folder.folder / "namesake.py"
    text = SHARED.replace("FLOW", "namesake").replace("GO", str(go))
    folder.write(text)
    run_id = folder.client.trigger("namesake")
    folder.wait_task("namesake", run_id, "shared.slow_namesake", "running")
    copy.write_text(text.replace('"x": [1]', '"x": [2]'))
    for file in (copy, original):
        error = folder.wait_import_error(f"namesake/{file.name}")
        assert f"DuplicateNameError: The files {original} and {copy} each have a flow" in error
    go.touch()
    copy.unlink()
    folder.wait_no_import_errors()  # Airflow forgets the error of a file that is gone when it lists its folder again

    assert folder.finished(run_id).state == "success"
    assert folder.query("select x from reader_of_namesake.read_by_namesake") == [(1,)]


KINDS = """
import polars as pl
from pipedag_airflow import Blob, Flow, RawSql, Stage, Table, materialize


@materialize(lazy=True)
def script(stage):
    return RawSql(f"create table {stage.current_name}.squares as select range * range as x from range(5);", "script")


@materialize(version="1")
def model():
    return Blob({"rate": 2}, "model")


@materialize(version="1", input_type=pl.DataFrame)
def scored(tables, model):
    return Table(tables["squares"].with_columns(y=pl.col("x") * model["rate"]), "scored")


with Flow("kinds") as flow:
    with Stage("made") as made:
        parts = script(made), model()
    with Stage("used"):
        scored(*parts)
"""


def test_scripts_and_blobs(flows: Callable[[str], FlowFolder]) -> None:
    folder = flows("kinds")
    folder.write(KINDS)
    assert set(folder.run().states.values()) == {"success"}
    assert folder.query("select y from used.scored order by y") == [(0,), (2,), (8,), (18,), (32,)]
    again = folder.run()
    assert again.state == "success"
    assert again.processes == {"made.begin_transaction", "used.begin_transaction"}


MISSING = """
from pipedag_airflow import Flow, Stage, materialize


@materialize(version="1")
def task():
    return {"a", "b"}


with Flow("bad_luck") as flow, Stage("stage"):
    task()
"""


def test_what_is_wrong_at_run_time_is_in_the_log_of_the_step(flows: Callable[[str], FlowFolder]) -> None:
    folder = flows("bad_luck")
    folder.write(MISSING)
    run = folder.run()
    assert run.state == "failed"
    log = folder.log(run, "stage.task")
    assert re.search(r"UnsupportedValueError: .*stage\.task.*set", log)

    # The process that parses files knows no secrets: a variable of the store is missed by who needs it.
    yaml = folder.folder / "pipedag.yaml"
    yaml.write_text(yaml.read_text().replace("pipeline.duckdb", "{$NOT_SET_ANYWHERE}.duckdb"))
    run_id = folder.client.trigger("bad_luck")
    assert folder.client.wait_run("bad_luck", run_id)["state"] == "failed"
    log = folder.client.log("bad_luck", run_id, "stage.begin_transaction")
    assert "environment variable NOT_SET_ANYWHERE is not set" in log


SLOW = """
import time
from pathlib import Path

from pipedag_airflow import Flow

Path("STARTED").touch()
time.sleep(600)
"""

QUICK = """
from pathlib import Path

from pipedag_airflow import Flow, Stage, materialize

calls = Path("CALLS")


@materialize(
    version="1",
    airflow={"retries": 3, "retry_delay": 1, "retry_exponential_backoff": True, "max_retry_delay": 2},
)
def flaky():
    with calls.open("a") as told:
        told.write("call\\n")
    if calls.read_text().count("call") < 3:
        raise ZeroDivisionError("on purpose")
    return 1


@materialize(version="1")
def firm():
    return 2


with Flow("quick") as flow, Stage("quick"):
    flaky()
    firm()
"""


def test_a_slow_module_does_not_keep_a_flow_from_running_whose_tasks_have_retries_of_their_own(
    flows: Callable[[str], FlowFolder],
) -> None:
    folder = flows("quick")
    slow = folder.folder / "slow.py"
    slow.write_text(SLOW.replace("STARTED", str(folder.data / "started")))
    while not (folder.data / "started").exists():
        assert not folder.client.import_errors()
    folder.write(QUICK.replace("CALLS", str(folder.data / "calls")))

    run = folder.run()

    assert run.state == "success"
    tries = {node: (task["try_number"], task["max_tries"]) for node, task in run.tasks.items() if "_tr" not in node}
    assert tries == {"quick.flaky": (3, 3), "quick.firm": (1, 0)}
    assert "Timeout" in folder.wait_import_error("quick/slow.py"), "Airflow ends what takes too long"
    slow.unlink()
    folder.wait_no_import_errors()
