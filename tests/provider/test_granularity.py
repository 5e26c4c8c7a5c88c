"""Stages and flows that are one operator: the graph, and results that are those of an operator for each task."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import sqlalchemy as sa
from airflow.providers.standard.operators.empty import EmptyOperator
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException, DownstreamTasksSkipped, TaskDeferred
from hypothesis import given, settings
from hypothesis import strategies as st
from test_dag_structure import call, closure, edges, flows

from pipedag_airflow import Flow, GroupNode, PipedagConfig, Stage, Table, materialize
from pipedag_airflow.backend.lock import Owner
from pipedag_airflow.backend.metadata import TaskState
from pipedag_airflow.errors import ConfigError, FailedNodesError, StoreError
from pipedag_airflow.provider.dag import compile_dag
from pipedag_airflow.provider.edges import stage_edges
from pipedag_airflow.provider.granularity import MANY_OPERATORS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def three_stages(**airflow: dict[str, Any]) -> Flow:
    with Flow("flow", airflow=airflow.get("flow")) as flow:
        with Stage("a", airflow=airflow.get("a")):
            x = call("x")
        with Stage("b", airflow=airflow.get("b")):
            y = call("y", x)
            with Stage("inner", airflow=airflow.get("inner")):
                z = call("z", y)
            w = call("w", z)
        with Stage("c", airflow=airflow.get("c")):
            call("v", x, w)
    flow.file = None
    return flow


TASK, STAGE, FLOW = ({"granularity": value} for value in ("task", "stage", "flow"))
_A = {"[a > a.x", "a.x > a]"}
_B = {"[b > b.y", "b.y > [inner", "[inner > inner.z", "inner.z > inner]", "inner] > b.w", "b.w > b]"}
_C = {"[c > c.v", "c.v > c]"}

MIXES: list[tuple[dict[str, dict[str, str]], set[str]]] = [
    ({}, {*_A, "a] > [b", *_B, "b] > [c", *_C}),
    ({"flow": TASK}, {*_A, "a] > [b", *_B, "b] > [c", *_C}),
    ({"flow": STAGE}, {"a > b", "b > c"}),
    ({"flow": FLOW}, set()),
    ({"a": STAGE}, {"a > [b", *_B, "b] > [c", *_C}),
    ({"b": STAGE}, {*_A, "a] > b", "b > [c", *_C}),
    ({"b": STAGE, "inner": STAGE}, {*_A, "a] > b", "b > [c", *_C}),
    ({"c": STAGE}, {*_A, "a] > [b", *_B, "b] > c"}),
    (
        {"inner": STAGE},
        {*_A, "a] > [b", "[b > b.y", "b.y > inner", "inner > b.w", "b.w > b]", "b] > [c", *_C},
    ),
    ({"flow": STAGE, "b": TASK}, {"a > [b", *_B, "b] > c"}),
    (
        {"flow": STAGE, "b": TASK, "inner": STAGE},
        {"a > [b", "[b > b.y", "b.y > inner", "inner > b.w", "b.w > b]", "b] > c"},
    ),
]


@pytest.mark.parametrize(("airflow", "expected"), MIXES, ids=[str(list(mix)) for mix, _ in MIXES])
def test_a_stage_or_flow_that_is_one_operator_is_one_node(airflow: dict[str, Any], expected: set[str]) -> None:
    dag = compile_dag(three_stages(**airflow), {})
    assert edges(dag) == expected
    if airflow.get("flow") == FLOW:
        assert dag.task_ids == ["flow"]


@settings(deadline=None)
@given(flows(), st.data())
def test_whatever_stages_are_one_operator_each_follows_what_it_did_and_there_is_no_cycle(
    flow: Flow, data: st.DataObject
) -> None:
    for stage in flow.stages.values():
        if stage.parent is None or not stage.parent.airflow:
            stage.airflow = data.draw(st.sampled_from([{}, STAGE]))
        else:
            stage.airflow = STAGE
    flow.file = None
    plan = flow.plan()
    dag = compile_dag(flow, {})
    after = closure({(task.task_id, node) for task in dag.tasks for node in task.downstream_task_ids}, dag.task_ids)
    assert all(name not in following for name, following in after.items()), "the graph has a cycle"

    def operator(node: str) -> str:
        return next(name for name in (node, *plan_stages(flow, node)) if name in after)

    for source, target in ((operator(source), operator(target)) for source, target in stage_edges(plan)):
        assert source == target or target in after[source]


def plan_stages(flow: Flow, node: str) -> tuple[str, ...]:
    stage = node.rpartition(".")[0]
    return (stage, *flow.plan().enclosing(stage))


@pytest.mark.parametrize(
    ("airflow", "message"),
    [
        ({"b": STAGE, "inner": TASK}, "'inner' of flow 'flow' is 'task', but the stage 'b' around it runs as one"),
        ({"flow": FLOW, "a": STAGE}, "'a' of flow 'flow' is 'stage', but the flow 'flow' runs as one"),
        ({"flow": {"granularity": "chain"}}, "of flow 'flow' is 'chain', but must be one of task, stage, flow"),
        ({"a": FLOW}, "of stage 'a' is 'flow', but must be one of task, stage"),
    ],
)
def test_what_contradicts_itself_or_does_not_exist_is_an_error(airflow: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        compile_dag(three_stages(**airflow), {})


def test_pipedag_yaml_says_it_as_well(dags: Any) -> None:
    dags.config("flows: {flow: {airflow: {granularity: stage, stages: {b: {granularity: task}}}}}")
    flow = three_stages()
    flow.file = dags.path / "flow.py"
    assert edges(compile_dag(flow, {})) == {"a > [b", *_B, "b] > c"}


def test_an_operator_of_a_stage_has_its_settings_looks_outlets_and_inlets() -> None:
    looks = {"group_display_name": "Bee", "ui_color": "#fed", "pool": "p", "granularity": "stage", "retries": 1}
    dag = compile_dag(three_stages(b=looks), {})
    operator = dag.get_task("b")
    assert (operator.task_display_name, operator.ui_color, operator.pool) == ("Bee", "#fed", "p")
    assert (operator.doc_md, operator.users_retries, operator.retries) == ("3 tasks, published together; reads a", 1, 2)
    assert [alias.name for alias in operator.outlets] == ["pipedag pipeline b", "pipedag pipeline inner"]
    assert [asset.uri for asset in operator.inlets] == ["pipedag://pipeline/__any__/a"]
    assert "b" not in dag.task_group.get_task_group_dict()


def test_groups_within_one_operator_are_not_shown() -> None:
    with Flow("flow") as flow, GroupNode("around"), Stage("a", airflow=STAGE), GroupNode("within"):
        call("x")
    flow.file = None
    dag = compile_dag(flow, {})
    assert {name: list(group.children) for name, group in dag.task_group.get_task_group_dict().items() if name} == {
        "group_1": ["a"]
    }


@pytest.mark.parametrize(("granularity", "warned"), [(TASK, True), (STAGE, False)])
def test_a_flow_of_many_operators_is_advised_to_have_fewer(
    caplog: pytest.LogCaptureFixture, granularity: dict[str, str], warned: bool
) -> None:
    with Flow("large", airflow=granularity) as flow, Stage("a"):
        for _ in range(MANY_OPERATORS - 1):
            call("x")
    flow.file = None
    with caplog.at_level(logging.WARNING, "pipedag_airflow"):
        compile_dag(flow, {})
    assert (f"DAG large has {MANY_OPERATORS + 1} operators" in caplog.text) is warned
    assert ("granularity: stage" in caplog.text) is warned


# --- the same results -----------------------------------------------------------------------------------------------


class Instance(SimpleNamespace):
    """What the operators ask of Airflow's task instance, in a DAG run whose tasks run one after the other."""

    def __init__(self, node: str, run_id: str, states: dict[str, str], *, max_tries: int = 0) -> None:
        super().__init__(dag_id="shop", run_id=run_id, task_id=node, try_number=1, max_tries=max_tries, pushed={})
        self.states = states
        #: What others have told, by their names.
        self.others: dict[str, dict[str, Any]] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value

    def xcom_pull(self, *, task_ids: str, key: str) -> Any:
        return self.others.get(task_ids, {}).get(key)

    def get_task_states(self, dag_id: str, *, run_ids: list[str], task_ids: list[str] | None = None) -> Any:
        del dag_id, task_ids
        return dict.fromkeys(run_ids, self.states)

    def get_dagrun_state(self, dag_id: str, run_id: str) -> str:
        del dag_id, run_id
        return "failed"  # the runs before are over


class Events(dict[Any, Any]):
    """The outlet events of a task instance."""

    def __missing__(self, alias: Any) -> Any:
        self[alias] = SimpleNamespace(added=[])
        self[alias].add = lambda asset, extra: self[alias].added.append((asset.uri, extra))
        return self[alias]


class Shop:
    """A flow in a folder of its own; what Airflow's scheduler does with its operators is done here, in this process."""

    def __init__(
        self, home: Path, granularity: dict[str, Any], monkeypatch: pytest.MonkeyPatch, conf: dict[str, str]
    ) -> None:
        self.home, self.granularity, self.monkeypatch, self.runs = home, granularity, monkeypatch, 0
        #: What every run is asked for.
        self.conf = conf
        home.mkdir()
        self.states: dict[str, str] = {}
        self.errors: dict[str, Exception] = {}
        self.uris: set[str] = set()
        self.pushed: dict[str, dict[str, Any]] = {}
        #: What was cleared in the run, each time.
        self.cleared: list[str] = []
        #: What the user adds to the DAG.
        self.extend: Callable[[Any], object] = lambda dag: None

    def dag(self, version: str, broken: bool) -> Any:
        import polars as pl

        @materialize(version=version)
        def orders() -> Table:
            return Table(pl.DataFrame({"x": [1, 2], "version": version}), "orders")

        @materialize(version=version)
        def rates() -> int:
            if broken:
                raise ZeroDivisionError("on purpose")
            return 2

        @materialize(version="1", input_type=pl.DataFrame)
        def copied(name: str, table: Any, *others: Any) -> Table:
            del others
            return Table(table, name)

        with Flow("shop", airflow=self.granularity.get("flow")) as flow:
            with Stage("raw"):
                table = orders()
            with Stage("clean", airflow=self.granularity.get("clean")):
                rate = rates()
                part = copied("part", table)
                with Stage("inner", airflow=self.granularity.get("inner")):
                    nested = copied("nested", part)
                rated = copied("rated", nested, rate)
            with Stage("mart"):
                copied("report", rated)
            with Stage("other"):
                copied("other", table)
        flow.file = None
        compiled = compile_dag(flow, {})
        self.extend(compiled)
        return compiled

    def run(self, version: str, *, broken: bool = False, **conf: Any) -> None:
        self.runs += 1
        self.states, self.cleared, self.pushed = {}, [], {}
        self.advance(self.dag(version, broken), conf)

    def clear_failed(self, version: str) -> None:
        """Let what failed, and what did not run for that, run again."""
        for node in [node for node, state in self.states.items() if "failed" in state]:
            del self.states[node]
        self.advance(self.dag(version, broken=False), {})

    def clear(self, version: str, *nodes: str, **conf: Any) -> None:
        """Let steps run again that were done."""
        self.cleared += nodes
        for node in nodes:
            del self.states[node]
        self.advance(self.dag(version, broken=False), conf)

    def advance(self, dag: Any, conf: dict[str, Any]) -> None:
        self.monkeypatch.setenv("PIPEDAG_HOME", str(self.home))
        params, self.errors = dag.params.dump() | self.conf | conf, {}
        for operator in dag.topological_sort():
            if operator.task_id in self.states:
                continue
            upstream = {self.states[node] for node in operator.upstream_task_ids}
            failed = upstream & {"failed", "upstream_failed"}
            self.states[operator.task_id] = "upstream_failed" if failed else self.execute(operator, params)

    def execute(self, operator: Any, params: dict[str, Any]) -> str:
        events = Events()
        cleared = self.cleared.count(operator.task_id)
        instance = Instance(operator.task_id, f"run_{self.runs}", self.states, max_tries=operator.retries + cleared)
        instance.others = self.pushed
        self.pushed[operator.task_id] = instance.pushed
        try:
            operator.execute({"ti": instance, "params": params, "outlet_events": events})
        except DownstreamTasksSkipped as signal:
            self.states.update(dict.fromkeys(signal.tasks, "skipped"))
        except AirflowSkipException:
            return "skipped"
        except Exception as error:
            self.errors[operator.task_id] = error
            return "failed"
        self.uris |= {uri for event in events.values() for uri, _ in event.added}
        return "success"

    def live(self) -> dict[str, int | None]:
        """Return the generation of each stage that readers see."""
        with PipedagConfig.find(None).get().table_store.transaction() as transaction:
            return {stage.stage: stage.live for stage in transaction.metadata.all_stages()}

    def seen(self) -> dict[str, Any]:
        """Return what readers see, and what this run has executed, with the identities of all results."""
        config = PipedagConfig.find(None).get()
        with config.table_store.transaction() as transaction:
            metadata = transaction.metadata
            live = [(stage.stage, stage.live) for stage in metadata.all_stages() if stage.live is not None]
            rows = metadata.read_tasks(live)
            executed = {
                row.node
                for record in metadata.generations(run_id=f"airflow:shop/run_{self.runs}")
                for row in metadata.read_tasks([(record.stage, record.number)])
                if row.state is TaskState.EXECUTED
            }
        with config.table_store.engine.connect() as connection:
            tables = {
                f"{stored.stage}.{stored.name}": connection.execute(
                    sa.text(f'select * from "{stored.stage}"."{stored.name}" order by x')
                ).fetchall()
                for row in rows
                for stored in row.objects
            }
        config.table_store.dispose()
        hashes = {row.node: (row.input_hash, row.task_hash) for row in rows}
        return {"tables": tables, "executed": executed, "hashes": hashes}


def history(home: Path, granularity: dict[str, Any], conf: dict[str, str]) -> tuple[list[dict[str, Any]], Shop]:
    """Run a flow for the first time, unchanged, broken and mended and cleared, and in parts; look at it each time."""
    seen = []
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
        shop = Shop(home, granularity, monkeypatch, conf)
        steps: list[Callable[[], None]] = [
            lambda: shop.run("1"),
            lambda: shop.run("1"),
            lambda: shop.run("2", broken=True),
            lambda: shop.clear_failed("2"),
            lambda: shop.run("3", select=["stage:raw", "clean.copied,state:invalid"]),
            lambda: shop.run("3"),
        ]
        for step in steps:
            step()
            seen.append(shop.seen() | {"successful": not shop.errors})
    return seen, shop


@pytest.fixture(scope="module")
def by_tasks(tmp_path_factory: pytest.TempPathFactory) -> tuple[list[dict[str, Any]], Shop]:
    return history(tmp_path_factory.mktemp("tasks") / "home", {}, {})


@pytest.mark.parametrize(
    ("granularity", "conf"),
    [({"flow": STAGE}, {}), ({"flow": FLOW}, {}), ({"inner": STAGE}, {}), ({}, STAGE), ({}, FLOW)],
    ids=["stages", "flow", "a nested stage", "stages by the form", "flow by the form"],
)
def test_results_cache_and_publishes_are_those_of_an_operator_for_each_task(
    tmp_path: Path,
    by_tasks: tuple[list[dict[str, Any]], Shop],
    granularity: dict[str, Any],
    conf: dict[str, str],
) -> None:
    expected, one_by_one = by_tasks
    found, shop = history(tmp_path / "home", granularity, conf)
    for step, (then, now) in enumerate(zip(expected, found, strict=True)):
        assert now == then, f"step {step}"
    assert [seen["successful"] for seen in expected] == [True, True, False, True, True, True]
    assert shop.uris == one_by_one.uris
    assert shop.uris > {"pipedag://pipeline/__any__/inner/nested"}


# --- one process ----------------------------------------------------------------------------------------------------


@pytest.fixture
def shop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    return Shop(tmp_path / "home", {"flow": FLOW}, monkeypatch, {})


def test_an_operator_that_fails_names_what_failed_what_did_not_run_and_what_is_not_published(
    shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    shop.run("1", broken=True)
    failure = str(shop.errors["shop"])
    assert "shop: failed: clean.rates (ZeroDivisionError: on purpose)." in failure
    assert (
        "Not run for that: clean.copied__2, clean.commit_transaction, mart.copied, mart.commit_transaction." in failure
    )
    assert "Not published: clean, mart;" in failure
    assert isinstance(shop.errors["shop"], AirflowFailException), "another try does not help"
    assert "Traceback" in caplog.text


def test_it_fails_fast_if_the_run_asks_for_it(shop: Shop) -> None:
    shop.run("1", broken=True, fail_fast=True)
    assert "Not run for that: clean.copied, inner.copied" in str(shop.errors["shop"])


@pytest.mark.parametrize(
    ("errors", "is_final"),
    [
        ([StoreError("the database cannot be reached")], False),
        ([StoreError("the database cannot be reached"), ZeroDivisionError("the user's")], True),
    ],
)
def test_it_is_tried_again_without_being_asked_only_if_that_may_mend_all_of_it(
    shop: Shop, errors: list[Exception], is_final: bool
) -> None:
    operator = shop.dag("1", broken=False).get_task("shop")
    error = FailedNodesError("failed", {str(number): error for number, error in enumerate(errors)})
    instance: Any = Instance("shop", "run", {})
    instance.max_tries = operator.retries
    assert isinstance(operator.failure(error, {"ti": instance}), AirflowFailException) is is_final


def test_while_a_stage_is_busy_it_waits_without_a_process_and_goes_on_with_what_is_left(shop: Shop) -> None:
    shop.monkeypatch.setenv("PIPEDAG_HOME", str(shop.home))
    shop.monkeypatch.setattr(Instance, "get_dagrun_state", lambda *_: "running")
    config = PipedagConfig.find(None).get()
    holder = Owner.of_run("airflow:another/run")
    config.lock_manager.acquire("mart", holder, seconds=600)
    dag = shop.dag("1", broken=False)
    operator, instance = dag.get_task("shop"), Instance("shop", "run_0", {})
    context: Any = {"ti": instance, "params": dag.params.dump(), "outlet_events": Events()}
    with pytest.raises(TaskDeferred) as deferred:
        operator.execute(context)
    assert deferred.value.trigger.stage == "mart"
    assert deferred.value.kwargs == {"over": ["raw", "clean", "inner"]}
    config.lock_manager.release("mart", holder)
    resumed = shop.dag("1", broken=False).get_task("shop")
    event = {"stage": "mart", "since": deferred.value.trigger.since, "trouble": None}
    told = resumed.execute_again(context, event, **deferred.value.kwargs)
    assert told["stages"].keys() == {"mart", "other"}
    assert instance.pushed["decisions"].keys() == {"mart", "other"}
    assert shop.seen()["executed"] >= {"raw.orders", "mart.copied", "other.copied"}
    config.table_store.dispose()


def test_what_is_not_selected_at_all_is_skipped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    shop = Shop(tmp_path / "home", {"flow": STAGE}, monkeypatch, {})
    shop.run("1", select="stage:raw")
    assert shop.states == {"raw": "success", "clean": "skipped", "mart": "skipped", "other": "skipped"}
    shop.run("1", dry_run=True)
    assert shop.states == {"raw": "success", "clean": "skipped", "mart": "skipped", "other": "skipped"}


@pytest.mark.parametrize(
    ("granularity", "marked", "follower"),
    [({"flow": STAGE}, "raw", "other"), ({"flow": STAGE}, "clean", "mart"), ({}, "raw.commit_transaction", "other")],
)
def test_what_was_marked_as_done_is_named_as_airflow_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, granularity: dict[str, Any], marked: str, follower: str
) -> None:
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    shop = Shop(tmp_path / "home", granularity, monkeypatch, {})
    shop.states = {"raw": "success", marked: "success"}
    shop.advance(shop.dag("1", broken=False), {})
    step = follower if granularity else f"{follower}.begin_transaction"
    assert f"Airflow shows {marked} as done" in str(shop.errors[step])


# --- larger operators for one run -----------------------------------------------------------------------------------


BEGINS = {f"{stage}.begin_transaction" for stage in ("raw", "clean", "mart", "other")}


def asked(home: Path, monkeypatch: pytest.MonkeyPatch, conf: dict[str, str], **granularity: dict[str, Any]) -> Shop:
    monkeypatch.delenv("PIPEDAG_CONFIG", raising=False)
    return Shop(home, granularity, monkeypatch, conf)


@pytest.mark.parametrize(("conf", "begins"), [(STAGE, BEGINS), (FLOW, {"raw.begin_transaction"})])
def test_a_begin_that_runs_all_skips_what_it_has_done_and_tells_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conf: dict[str, str], begins: set[str]
) -> None:
    shop = asked(tmp_path / "home", monkeypatch, conf)
    shop.run("1")
    assert {node for node, state in shop.states.items() if state == "success"} == begins
    assert set(shop.states.values()) == {"success", "skipped"}
    told = shop.pushed["raw.begin_transaction"]
    assert told["decisions"]["raw"]["tasks"] == {"raw.orders": "runs (first_run)"}
    assert told["return_value"]["tasks"]["raw.orders"]["tables"]["orders"]["rows"] == 2
    assert shop.uris > {"pipedag://pipeline/__any__/inner/nested", "pipedag://pipeline/__any__/other"}


def test_a_task_that_fails_in_a_begin_is_its_failure_and_what_follows_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = asked(tmp_path / "home", monkeypatch, STAGE)
    shop.run("1", broken=True)
    assert {node for node, state in shop.states.items() if state == "failed"} == {"clean.begin_transaction"}
    failed = {node for node, state in shop.states.items() if state == "upstream_failed"}
    assert failed > {"clean.rates", "inner.begin_transaction", "clean.commit_transaction", "mart.begin_transaction"}
    assert shop.states["other.begin_transaction"] == "success"
    error = shop.errors["clean.begin_transaction"]
    assert "clean.begin_transaction: failed: clean.rates (ZeroDivisionError: on purpose)" in str(error)


@pytest.mark.parametrize(("retries", "kind"), [(0, AirflowFailException), (1, FailedNodesError)])
def test_a_task_that_fails_in_a_begin_is_tried_again_as_often_as_the_user_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, retries: int, kind: type[Exception]
) -> None:
    shop = asked(tmp_path / "home", monkeypatch, STAGE, clean={"retries": retries})
    shop.run("1", broken=True)
    assert type(shop.errors["clean.begin_transaction"]) is kind


@pytest.mark.parametrize("version", ["1", "2"], ids=["valid", "made anew"])
def test_what_operators_of_the_users_own_wait_for_ends_as_a_success_without_being_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    shop = asked(tmp_path / "home", monkeypatch, STAGE)

    def mail(dag: Any) -> None:
        sent = EmptyOperator(task_id="mail", dag=dag)
        sent.set_upstream([dag.get_task(node) for node in ("raw.orders", "inner.copied", "clean.commit_transaction")])

    shop.run("1")
    shop.extend = mail
    shop.run(version)
    for node in ("raw.orders", "inner.copied", "clean.commit_transaction", "mail"):
        assert shop.states[node] == "success"
    assert shop.states["clean.rates"] == "skipped"
    assert shop.seen()["executed"] == ({"raw.orders", "clean.rates"} | COPIES if version == "2" else set())
    number = 1 if version == "1" else 2
    assert set(shop.live().values()) == {number}


COPIES = {"clean.copied", "inner.copied", "clean.copied__2", "mart.copied", "other.copied"}


def test_a_begin_does_not_run_what_is_to_wait_for_operators_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = asked(tmp_path / "home", monkeypatch, STAGE)
    shop.extend = lambda dag: EmptyOperator(task_id="ask", dag=dag).set_downstream(dag.get_task("mart.copied"))
    monkeypatch.setenv("PIPEDAG_HOME", str(shop.home))
    dag = shop.dag("1", broken=False)
    assert shop.execute(dag.get_task("mart.begin_transaction"), dag.params.dump() | STAGE) == "failed"
    assert "mart.copied waits for ask, an operator of your own" in str(shop.errors["mart.begin_transaction"])


def test_a_begin_that_runs_all_waits_without_a_process_and_goes_on_with_what_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = asked(tmp_path / "home", monkeypatch, FLOW)
    monkeypatch.setenv("PIPEDAG_HOME", str(shop.home))
    monkeypatch.setattr(Instance, "get_dagrun_state", lambda *_: "running")
    config = PipedagConfig.find(None).get()
    holder = Owner.of_run("airflow:another/run")
    config.lock_manager.acquire("mart", holder, seconds=600)
    dag, node = shop.dag("1", broken=False), "raw.begin_transaction"
    context: Any = {"ti": Instance(node, "run_0", {}), "params": dag.params.dump() | FLOW, "outlet_events": Events()}
    with pytest.raises(TaskDeferred) as deferred:
        dag.get_task(node).execute(context)
    assert deferred.value.trigger.stage == "mart"
    config.lock_manager.release("mart", holder)
    event = {"stage": "mart", "since": deferred.value.trigger.since, "trouble": None}
    with pytest.raises(DownstreamTasksSkipped):
        shop.dag("1", broken=False).get_task(node).execute_again(context, event, **deferred.value.kwargs)
    assert context["ti"].pushed["decisions"].keys() == {"mart", "other"}
    config.table_store.dispose()


ANEW = {"cache_validation_mode": "force_cache_invalid"}
FIRST = dict.fromkeys(("raw", "clean", "inner", "mart", "other"), 1)


@pytest.mark.parametrize(("conf", "awaited"), [(FLOW, "mart"), (FLOW, "inner"), (STAGE, "inner")])
def test_a_begin_that_operators_of_the_users_own_wait_for_does_not_run_again_what_another_one_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, conf: dict[str, str], awaited: str
) -> None:
    shop = asked(tmp_path / "home", monkeypatch, conf | ANEW)
    begin = f"{awaited}.begin_transaction"
    shop.extend = lambda dag: dag.get_task(begin).set_downstream(EmptyOperator(task_id="mail", dag=dag))
    shop.run("1")
    assert (shop.states[begin], shop.states["mail"], shop.errors) == ("success", "success", {})
    assert shop.live() == FIRST
    # Cleared together with the one that runs all, it has nothing to do, either.
    shop.clear("1", *shop.states)
    assert shop.errors == {}
    assert shop.live() == dict.fromkeys(FIRST, 2)


@pytest.mark.parametrize("awaited", [True, False])
def test_a_later_begin_that_is_cleared_by_itself_runs_its_own_stage_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, awaited: bool
) -> None:
    shop = asked(tmp_path / "home", monkeypatch, FLOW | ANEW)
    if awaited:
        begin = "clean.begin_transaction"
        shop.extend = lambda dag: dag.get_task(begin).set_downstream(EmptyOperator(task_id="mail", dag=dag))
    shop.run("1")
    shop.clear("1", "clean.begin_transaction")
    assert shop.errors == {}
    assert shop.live() == FIRST | {"clean": 2, "inner": 2}


def test_a_later_begin_runs_its_own_stage_if_the_first_one_was_marked_as_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = asked(tmp_path / "home", monkeypatch, FLOW)
    shop.run("1", select="stage:raw")
    shop.states = dict.fromkeys(("raw.begin_transaction", "raw.orders", "raw.commit_transaction"), "success")
    shop.runs, shop.pushed = shop.runs + 1, {}
    shop.advance(shop.dag("1", broken=False), {"select": ["stage:clean", "stage:mart"]})
    assert shop.errors == {}
    assert shop.live() == dict.fromkeys(("raw", "clean", "inner", "mart"), 1)
