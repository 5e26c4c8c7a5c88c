"""Any sequence of publishes, failures and rollbacks: what is kept can be restored, and nothing else is left."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import attrs
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pipedag_airflow.backend.metadata import GenerationState, ObjectKind, ObjectRecord, TaskRecord, TaskState
from pipedag_airflow.backend.table.sql import ddl
from pipedag_airflow.run.garbage import collect_garbage
from pipedag_airflow.run.history import read_history
from pipedag_airflow.run.publication import Publication
from pipedag_airflow.run.rollback import rollback
from pipedag_airflow.run.switch import point_live, switch_tables

if TYPE_CHECKING:
    from conftest import Project

    from pipedag_airflow import ConfigContext

NAMES = ("a", "b", "c")
made_anew = st.frozensets(st.sampled_from(NAMES))
steps = st.one_of(
    st.tuples(st.just("publish"), made_anew.filter(bool)),
    st.tuples(st.just("fail"), made_anew),
    st.tuples(st.just("find unchanged"), st.just(frozenset())),
    st.tuples(st.just("roll back"), st.integers(0, 3)),
)


@pytest.fixture
def config(project: Project) -> ConfigContext:
    """A database in memory."""
    project.settings["table_store"]["args"]["url"] = "duckdb:///:memory:"
    project.settings["lock_manager"] = {"class": "pipedag_airflow.backend.lock.NoLockManager"}
    return project.config(generations_to_keep=3)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(sequence=st.lists(steps, max_size=10))
def test_whatever_happens_what_is_kept_can_be_restored(config: ConfigContext, sequence: list[tuple[str, Any]]) -> None:
    with config.table_store.transaction() as transaction:
        stage = f"s{len(transaction.metadata.all_stages())}"
    model = Model(config, stage)
    model.build(frozenset(NAMES), GenerationState.PUBLISHED)
    for step, argument in sequence:
        if step == "roll back":
            model.roll_back(argument)
        else:
            state = {"publish": GenerationState.PUBLISHED, "fail": GenerationState.ABANDONED}
            model.build(argument, state.get(step, GenerationState.UNCHANGED))
        model.check()


class Model:
    """A stage, and what its tables must hold: in which generation they were made."""

    def __init__(self, config: ConfigContext, stage: str) -> None:
        self.config = config
        self.stage = stage
        self.live: dict[str, TaskRecord] = {}
        self.published: list[dict[str, int]] = []

    def build(self, names: frozenset[str], state: GenerationState) -> None:
        """Make some of the tables, take over the others; then publish, or not."""
        with self.config.table_store.transaction() as transaction:
            number = transaction.metadata.open_generation(self.stage, "run", "here").number
            schema = self.config.table_store.generation_schema(self.stage, number)
            rows = {name: attrs.evolve(row, generation=number) for name, row in self.live.items()}
            for name in names:
                transaction.create_schema(schema)
                content = sa.select(sa.literal_column(str(number)).label("made"))
                transaction.connection.execute(ddl.CreateTableAs(schema, name, content, {}))
                rows[name] = self.row(number, name, schema)
            rows = {
                name: attrs.evolve(row, objects=tuple(attrs.evolve(one, generation=number) for one in row.objects))
                for name, row in rows.items()
            }
            transaction.metadata.write_tasks(list(rows.values()))
            if state is GenerationState.PUBLISHED:
                publication = Publication(
                    config=self.config,
                    transaction=transaction,
                    run_id="run",
                    stage=self.stage,
                    number=number,
                    rows=rows,
                    live_rows=self.live,
                )
                switch_tables(publication)
                point_live(publication)
                self.live = rows
                before = self.published[-1] if self.published else {}
                self.published.append(before | dict.fromkeys(names, number))
            else:
                transaction.metadata.close_generation(self.stage, number, state)
        if state is not GenerationState.ABANDONED:
            collect_garbage(self.config, self.stage)

    def row(self, number: int, name: str, schema: str) -> TaskRecord:
        stored = ObjectRecord(self.stage, number, ObjectKind.TABLE, name, name, "key", schema, name, {"columns": []})
        return TaskRecord(self.stage, number, name, name, "1", name, TaskState.EXECUTED, "first_run", objects=(stored,))

    def roll_back(self, steps: int) -> None:
        """Publish a generation that is kept, counted from the live one; the live one itself cannot be chosen."""
        with self.config.table_store.transaction() as transaction:
            past = read_history(self.config, transaction, self.stage).past
        if steps == 0 or steps >= len(past):
            return
        old = past[-1 - steps]
        report = rollback(self.config, self.stage, old.number)
        self.live = {
            name: attrs.evolve(
                row,
                generation=report.generation,
                objects=tuple(attrs.evolve(one, generation=report.generation) for one in row.objects),
            )
            for name, row in old.rows.items()
        }
        self.published.append(self.published[-1 - steps])

    def check(self) -> None:
        """Readers see what is live; all that is kept is there, and nothing that is not."""
        store = self.config.table_store
        with store.transaction() as transaction:
            shown = {
                name: transaction.connection.execute(
                    sa.select(sa.column("made")).select_from(sa.table(name, schema=store.schema(self.stage)))
                ).scalar_one()
                for name in NAMES
            }
            history = read_history(self.config, transaction, self.stage)
            places = {(place.container, place.location) for place in transaction.retention.places(self.stage)}
            schemas = [store.generation_schema(self.stage, number) for number in range(1, 30)]
            there = set(transaction.objects(schemas))
        assert shown == self.published[-1]
        assert [generation.lost for generation in history.past] == [()] * min(3, len(self.published))
        assert history.live is history.past[-1]
        assert there == places
