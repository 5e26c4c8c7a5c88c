"""The metadata: what a run writes down is what the next one reads."""

from __future__ import annotations

import contextlib
import datetime as dt
from typing import TYPE_CHECKING, Any

import attrs
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipedag_airflow import Flow, Stage, materialize
from pipedag_airflow.backend.metadata import (
    GenerationState,
    Message,
    MetadataRepository,
    ObjectKind,
    ObjectRecord,
    RetentionRepository,
    TaskRecord,
    TaskState,
)
from pipedag_airflow.backend.table import SQLTableStore
from pipedag_airflow.errors import ConfigError, FlowChangedError, StaleRunError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pipedag_airflow.core.plan import Plan


@pytest.fixture
def store() -> Iterator[SQLTableStore]:
    store = SQLTableStore("duckdb:///:memory:")
    yield store
    store.dispose()


@pytest.fixture
def metadata(store: SQLTableStore) -> Iterator[MetadataRepository]:
    with store.transaction() as transaction:
        yield transaction.metadata


def task(node: str = "s.t", generation: int = 1, **fields: Any) -> TaskRecord:
    values: dict[str, Any] = {"version": "1.0", "state": TaskState.EXECUTED, "reason": "first_run"}
    return TaskRecord(
        **{"stage": "s", "generation": generation, "node": node, "name": "t", "position": "p"} | values | fields
    )


def stored(name: str, node: str = "s.t", generation: int = 1, **fields: Any) -> ObjectRecord:
    values: dict[str, Any] = {"kind": ObjectKind.TABLE, "container": f"s__g{generation}", "location": name, "facts": {}}
    return ObjectRecord(
        **{"stage": "s", "generation": generation, "name": name, "node": node, "cache_key": "k"} | values | fields
    )


def facts(record: TaskRecord) -> dict[str, Any]:
    """A record with its objects as comparable data."""
    return attrs.asdict(record)


# --- set-up -----------------------------------------------------------------------------------------------------------


def test_setting_up_twice_changes_nothing(metadata: MetadataRepository) -> None:
    metadata.open_generation("s", "r", "h")
    metadata.setup("pipeline", is_there=lambda: True)
    assert [generation.number for generation in metadata.generations()] == [1]


def test_the_database_of_another_instance_is_refused(metadata: MetadataRepository) -> None:
    with pytest.raises(
        ConfigError, match=r"'pipedag_metadata' belongs to the instance 'pipeline'.*'other'.*schema_prefix"
    ):
        metadata.setup("other", is_there=lambda: True)


def test_the_database_of_a_newer_release_is_refused(metadata: MetadataRepository) -> None:
    metadata.connection.execute(sa.update(metadata.tables.instance).values(metadata_version=99))
    with pytest.raises(ConfigError, match=r"has version 99, written by a newer release.*Upgrade"):
        metadata.setup("pipeline", is_there=lambda: True)


# --- runs -------------------------------------------------------------------------------------------------------------


def plan(*names: str) -> Plan:
    with Flow("f") as flow:
        for name in names:
            with Stage(name):
                materialize(version="1.0")(lambda: 1)()
    return flow.plan()


def test_a_run_whose_flow_was_changed_is_told(metadata: MetadataRepository) -> None:
    begins = [metadata.note_run("r", plan("a", "b"), "sequential") for _ in range(2)]
    assert begins == [True, False]
    assert metadata.note_run("another", plan("a", "c"), "sequential")
    with pytest.raises(FlowChangedError, match="b"):
        metadata.note_run("r", plan("a", "c"), "sequential")


# --- generations and the fence ----------------------------------------------------------------------------------------


def test_generations_of_a_stage_only_grow(metadata: MetadataRepository) -> None:
    numbers = [metadata.open_generation(stage, "r", "h").number for stage in ("s", "s", "other", "s")]
    assert numbers == [1, 2, 1, 3]


def test_opening_a_generation_abandons_what_was_open(metadata: MetadataRepository) -> None:
    metadata.open_generation("s", "r1", "h")
    metadata.close_generation("s", 1, GenerationState.PUBLISHED)
    metadata.point_live("s", 1)
    metadata.open_generation("s", "r2", "h")
    metadata.open_generation("other", "r2", "h")
    metadata.open_generation("s", "r3", "h")
    states = {generation.number: generation.state for generation in metadata.generations(stage="s")}
    assert states == {1: GenerationState.PUBLISHED, 2: GenerationState.ABANDONED, 3: GenerationState.OPEN}
    assert [generation.closed is None for generation in metadata.generations(stage="s")] == [False, False, True]
    assert metadata.generations(stage="other")[0].state is GenerationState.OPEN
    assert metadata.stages(["s", "missing"])["s"].live == 1
    assert set(metadata.stages(["s", "missing"])) == {"s"}


def test_only_the_newest_generation_may_write(metadata: MetadataRepository) -> None:
    metadata.open_generation("s", "run-1", "host-1:11")
    assert metadata.check_fence("s", 1).fence == 1
    second = metadata.open_generation("s", "run-2", "host-2:22")
    assert metadata.check_fence("s", 2).fence == 2
    with pytest.raises(StaleRunError) as caught:
        metadata.check_fence("s", 1)
    opened = second.opened
    assert opened is not None
    for part in ("'s'", "'run-2'", "host-2:22", "generation 2", f"since {opened:%Y-%m-%d %H:%M}"):
        assert part in str(caught.value)


def test_a_stage_that_is_gone_may_not_be_written(metadata: MetadataRepository) -> None:
    with pytest.raises(StaleRunError, match="'s' is gone from the metadata"):
        metadata.check_fence("s", 1)


def test_the_newest_generation_is_found_by_stage_and_run(metadata: MetadataRepository) -> None:
    for run in ("r1", "r2", "r1", "r3"):
        metadata.open_generation("s", run, "h")
    found = [metadata.latest_generation("s", run) for run in (None, "r1", "r2", "missing")]
    assert [generation and generation.number for generation in found] == [4, 3, 2, None]
    assert [generation.number for generation in metadata.generations(run_id="r1")] == [1, 3]


def test_times_are_read_as_they_were_written(metadata: MetadataRepository) -> None:
    before = dt.datetime.now(dt.UTC)
    opened = metadata.open_generation("s", "r", "h").opened
    read = metadata.generations()[0].opened
    assert read is not None
    assert before <= read == opened <= dt.datetime.now(dt.UTC)


def test_stages_are_listed_in_the_order_of_their_beginning(metadata: MetadataRepository) -> None:
    for stage in ("z", "a", "m", "z"):
        metadata.open_generation(stage, "r", "h")
    assert [record.stage for record in metadata.all_stages()] == ["z", "a", "m"]


# --- tasks and objects ------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def statements(connection: sa.Connection) -> Iterator[list[str]]:
    seen: list[str] = []

    def note(_conn: Any, _cursor: Any, statement: str, *_: Any) -> None:
        seen.append(statement)

    sa.event.listen(connection, "before_cursor_execute", note)
    yield seen
    sa.event.remove(connection, "before_cursor_execute", note)


def test_tasks_and_their_objects_are_read_in_one_statement(metadata: MetadataRepository) -> None:
    metadata.open_generation("s", "r", "h")
    records = [task(f"s.t{n}", objects=(stored(f"a{n}", f"s.t{n}"), stored(f"b{n}", f"s.t{n}"))) for n in range(30)]
    metadata.write_tasks(records)
    with statements(metadata.connection) as seen:
        rows = metadata.read_tasks([("s", 1)])
    assert len(seen) == 1
    assert sorted(map(facts, rows), key=str) == sorted(map(facts, records), key=str)


def test_tasks_are_written_in_a_number_of_statements_that_does_not_grow(metadata: MetadataRepository) -> None:
    metadata.open_generation("s", "r", "h")
    counts = []
    for number in (1, 200):
        records = [task(f"s.t{n}", objects=(stored(f"a{n}", f"s.t{n}"),)) for n in range(number)]
        with statements(metadata.connection) as seen:
            metadata.write_tasks(records)
        counts.append(len(seen))
    assert counts[0] == counts[1] <= 4


def test_tasks_of_any_number_are_written_on_postgresql(postgres_url: sa.URL) -> None:
    """Its protocol counts the values of a statement in 16 bits: 4,000 tasks in one statement would be too many."""
    number = 4_000
    pairs = [(stored(f"a{n}", f"s.t{n}"), stored(f"b{n}", f"s.t{n}")) for n in range(number)]
    records = [task(f"s.t{n}", objects=pair) for n, pair in enumerate(pairs)]
    store = SQLTableStore(postgres_url.render_as_string(hide_password=False))
    try:
        with store.transaction() as transaction:
            metadata = transaction.metadata
            metadata.open_generation("s", "r", "h")
            for _ in range(2):  # the second time replaces what the first one wrote
                metadata.write_tasks(records)
            counts = [
                metadata.connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
                for table in (metadata.tables.task, metadata.tables.object)
            ]
    finally:
        store.dispose()
    assert counts == [number, 2 * number]


def test_nothing_is_asked_about_nothing(metadata: MetadataRepository) -> None:
    with statements(metadata.connection) as seen:
        assert metadata.read_tasks([]) == []
        metadata.write_tasks([])
    assert not seen


def test_a_retry_replaces_its_own_rows_only(metadata: MetadataRepository) -> None:
    metadata.open_generation("s", "r", "h")
    other = task("s.u", objects=(stored("u", "s.u"),))
    metadata.write_tasks([task(objects=(stored("old"), stored("kept"))), other, task(generation=2)])
    again = task(version="2", objects=(stored("kept"),))
    metadata.write_tasks([again])
    assert [facts(row) for row in metadata.read_tasks([("s", 1)])] == [facts(again), facts(other)]
    assert len(metadata.read_tasks([("s", 2)])) == 1


def test_a_twin_shows_the_objects_of_the_node_that_made_them(metadata: MetadataRepository) -> None:
    metadata.open_generation("s", "r", "h")
    made = stored("x")
    metadata.write_tasks([task(objects=(made,)), task("s.t__2", twin="s.t", objects=(made,))])
    assert [[item.name for item in row.objects] for row in metadata.read_tasks([("s", 1)])] == [["x"], ["x"]]
    count = sa.select(sa.func.count()).select_from(metadata.tables.object)
    assert metadata.connection.execute(count).scalar_one() == 1


def test_live_rows_and_later_ones_are_read_together(metadata: MetadataRepository) -> None:
    for _ in range(4):
        metadata.open_generation("s", "r", "h")
    metadata.open_generation("new", "r", "h")
    metadata.write_tasks([task(generation=number) for number in range(1, 5)] + [task("new.t", stage="new")])
    metadata.point_live("s", 3)
    rows = metadata.read_tasks([("s", None), ("new", None)])
    assert [(row.stage, row.generation) for row in rows] == [("new", 1), ("s", 3), ("s", 4)]


def test_rows_can_be_restricted_to_nodes_but_for_the_own_stage(metadata: MetadataRepository) -> None:
    for stage in ("s", "up"):
        metadata.open_generation(stage, "r", "h")
        metadata.write_tasks([task(f"{stage}.{name}", stage=stage) for name in ("a", "b")])
    where = [("s", None), ("up", None)]
    assert [row.node for row in metadata.read_tasks(where, ["up.b"], own="s")] == ["s.a", "s.b", "up.b"]
    assert [row.node for row in metadata.read_tasks(where, ["up.b", "s.a"])] == ["s.a", "up.b"]


def test_two_tasks_cannot_claim_one_table(metadata: MetadataRepository) -> None:
    objects = (stored("x"), stored("y"), stored("x", kind=ObjectKind.BLOB))
    metadata.write_tasks([task(objects=objects), task("s.u", generation=2, objects=(stored("z", "s.u", 2),))])
    assert metadata.object_owners("s", 1, ObjectKind.TABLE, ["x", "z"]) == {"x": "s.t"}
    assert metadata.object_owners("s", 1, ObjectKind.TABLE, []) == {}
    with pytest.raises(sa.exc.IntegrityError):
        metadata.write_tasks([task("s.u", objects=(stored("x", "s.u"),))])
    metadata.connection.rollback()
    metadata.connection.begin()


def test_an_object_is_found_by_its_name(metadata: MetadataRepository) -> None:
    made = stored("x", facts={"columns": [["a", "BIGINT", True]]}, query="SELECT 1", rows=7)
    metadata.write_tasks([task(objects=(made,))])
    found = metadata.find_object("s", 1, ObjectKind.TABLE, "x")
    assert found is not None
    assert attrs.asdict(found) == attrs.asdict(made)
    assert metadata.find_object("s", 2, ObjectKind.TABLE, "x") is None
    assert metadata.find_object("s", 1, ObjectKind.BLOB, "x") is None


def test_states_of_tasks(metadata: MetadataRepository) -> None:
    metadata.write_tasks([task(f"s.{state}", state=state) for state in TaskState])
    assert metadata.task_states("s", 1) == {f"s.{state}": state for state in TaskState}
    assert {state for state in TaskState if state.has_output} == {TaskState.VALID, TaskState.EXECUTED}


# Databases other than DuckDB have no NUL in their texts.
texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=30)
maybe_texts = st.none() | texts
maybe_ids = st.none() | st.integers(0, 2**63 - 1)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=5,
)
objects = st.builds(
    ObjectRecord,
    stage=st.just("s"),
    generation=st.just(1),
    kind=st.sampled_from(ObjectKind),
    name=texts,
    node=st.just("s.t"),
    cache_key=texts,
    container=maybe_texts,
    location=maybe_texts,
    facts=st.dictionaries(texts, json_values, max_size=3),
    query=maybe_texts,
    rows=maybe_ids,
    sources=st.lists(st.tuples(texts, texts), max_size=3).map(tuple),
)
tasks = st.builds(
    TaskRecord,
    stage=st.just("s"),
    generation=st.just(1),
    node=st.just("s.t"),
    name=texts,
    version=maybe_texts,
    position=texts,
    state=st.sampled_from(TaskState),
    reason=texts,
    detail=texts,
    input_hash=maybe_texts,
    cache_function_hash=maybe_texts,
    task_hash=maybe_texts,
    memo_key=maybe_texts,
    inputs=maybe_texts,
    output=maybe_texts,
    revision=st.integers(0, 2**31 - 1),
    produced_by=maybe_ids,
    reads_open=st.lists(st.tuples(texts, st.integers(1, 2**40)), max_size=3).map(tuple),
    seconds=st.none() | st.floats(0, allow_nan=False, allow_infinity=False),
    objects=st.lists(objects, max_size=3, unique_by=lambda record: (record.kind, record.name)).map(tuple),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(record=tasks)
def test_a_record_is_read_as_it_was_written(metadata: MetadataRepository, record: TaskRecord) -> None:
    if not metadata.stages(["s"]):
        metadata.open_generation("s", "r", "h")
    metadata.write_tasks([record])
    (read,) = metadata.read_tasks([("s", 1)])
    in_order = sorted(record.objects, key=lambda item: (item.kind.value, item.name))
    found = attrs.evolve(read, objects=tuple(sorted(read.objects, key=lambda item: (item.kind.value, item.name))))
    assert facts(found) == facts(attrs.evolve(record, objects=tuple(in_order)))


# --- retention --------------------------------------------------------------------------------------------------------


def test_where_all_generations_have_their_objects_until_one_is_forgotten(metadata: MetadataRepository) -> None:
    for _ in range(3):
        metadata.open_generation("s", "r", "h")
    blob = {"kind": ObjectKind.BLOB, "container": None}
    script = {"kind": ObjectKind.SCRIPT, "container": None, "location": None}
    first = (stored("t"), stored("u"), stored("b", location="b1.pkl", **blob), stored("c", location="c1.pkl", **blob))
    carried = (stored("t", generation=3, container="s__g1"), stored("b", generation=3, location="b1.pkl", **blob))
    second = (stored("t", generation=2), stored("q", generation=2, **script))
    metadata.write_tasks([task(objects=first), task(generation=2, objects=second), task(generation=3, objects=carried)])
    metadata.write_tasks([task(stage="other", generation=1, objects=(stored("o", stage="other", container="o__g1"),))])
    retention = RetentionRepository(metadata.connection, metadata.tables)

    def places() -> set[tuple[int, str | None, str | None]]:
        return {(place.generation, place.container, place.location) for place in retention.places("s")}

    assert places() == {
        (1, "s__g1", "t"),
        (1, "s__g1", "u"),
        (1, None, "b1.pkl"),
        (1, None, "c1.pkl"),
        (2, "s__g2", "t"),
        (3, "s__g1", "t"),
        (3, None, "b1.pkl"),
    }
    assert retention.count_tasks("s") == {1: 1, 2: 1, 3: 1}
    retention.forget_generation("s", 1)
    retention.forget_generation("s", 1)
    assert places() == {(2, "s__g2", "t"), (3, "s__g1", "t"), (3, None, "b1.pkl")}
    assert retention.count_tasks("s") == {2: 1, 3: 1}
    assert retention.count_tasks("other") == {1: 1}
    retention.mark_dropped("s", 2)
    assert [generation.dropped for generation in metadata.generations(stage="s")] == [False, True, False]


def test_what_a_view_of_any_stage_shows_is_told(metadata: MetadataRepository) -> None:
    view = stored("v", stage="other", container="o__g1", sources=(("s__g7", "t"), ("s__g2", "u")))
    metadata.open_generation("other", "r", "h")
    metadata.write_tasks([task(stage="other", objects=(view,))])
    (place,) = RetentionRepository(metadata.connection, metadata.tables).places("s")
    assert (place.stage, place.sources) == ("other", (("s__g7", "t"), ("s__g2", "u")))


def _table(rows: int) -> dict[str, int]:
    return {"rows": rows}


def test_a_message_stays_in_the_outbox_with_who_carries_it_and_leaves_no_row_when_it_was_sent(
    metadata: MetadataRepository,
) -> None:
    outbox, carrier = metadata.outbox, {"task_id": "s.commit_transaction"}
    payload = {"changed": {"ä": _table(1)}, "removed": []}
    outbox.write(Message("s", 1, payload))
    outbox.write(Message("other", 1, payload))
    outbox.hand_over(outbox.pending("s"), carrier)
    outbox.write(Message("s", 2, payload))
    carried, fresh = Message("s", 1, payload, carrier), Message("s", 2, payload)
    assert outbox.pending("s") == [carried, fresh]
    outbox.remove([carried])
    assert outbox.pending("s") == [fresh]
    rows = metadata.connection.execute(sa.select(metadata.tables.event.c.stage, metadata.tables.event.c.generation))
    assert sorted(map(tuple, rows)) == [("other", 1), ("s", 2)]


def test_what_nobody_has_begun_to_send_is_told_with_the_next_publish(metadata: MetadataRepository) -> None:
    outbox = metadata.outbox
    outbox.write(Message("s", 1, {"changed": {"a": _table(1), "b": _table(1), "c": _table(1)}, "removed": ["d", "e"]}))
    outbox.write(Message("s", 2, {"changed": {"a": _table(2), "d": _table(2)}, "removed": ["b"], "run_id": "second"}))
    outbox.write(Message("s", 3, {"changed": {}, "removed": [], "run_id": "third"}))
    changed = {"a": _table(2), "c": _table(1), "d": _table(2)}
    assert outbox.pending("s") == [Message("s", 3, {"changed": changed, "removed": ["b", "e"], "run_id": "third"})]
