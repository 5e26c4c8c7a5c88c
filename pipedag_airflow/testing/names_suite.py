"""What every table store must do about names; a part of the suite of table stores."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs
import polars as pl
import pytest
import sqlalchemy as sa

from pipedag_airflow.backend.table.sql.facts import TableLocation
from pipedag_airflow.errors import ConfigError, UnsupportedValueError
from pipedag_airflow.testing.store_fixtures import (
    HOSTILE_NAMES,
    TableStoreFixtures,
    location,
    objects,
    read,
    write,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from pipedag_airflow.backend.table import SQLTableStore

__all__ = ["NamesSuite"]


class NamesSuite(TableStoreFixtures):
    """Tests of the names in one table store."""

    @pytest.mark.parametrize("name", HOSTILE_NAMES)
    def test_any_name_will_do(self, store: SQLTableStore, name: str) -> None:
        """For schemas, tables, columns and indexes, from writing to dropping."""
        schema = store.generation_schema(name, 1)
        frame = pl.DataFrame({name: [1, 2], "other": [3.5, None]})
        facts = write(store, frame, name, schema, primary_key=name, indexes=[[name, "other"]])
        assert facts.columns[0].name == name
        place = location(facts, name, schema)
        assert read(store, place).equals(frame)
        alias = store.read_table(None, place, sa.Table, "task")
        query = sa.select(alias).where(alias.c[name] == 2)
        assert write(store, query, f"{name} 2", schema).rows == 1
        with store.transaction() as transaction:
            transaction.show(store.schema(name), name, schema, name)
        shown = location(facts, name, store.schema(name))
        assert read(store, shown).equals(frame)
        with store.transaction() as transaction:
            transaction.hide(store.schema(name), name)
            transaction.drop_generation_schema(schema, [name, f"{name} 2"])
        assert not objects(store, schema, store.schema(name))

    @pytest.mark.parametrize("letter", ["x", "ä", "😀"])
    def test_names_longer_than_the_database_takes_stay_different(self, store: SQLTableStore, letter: str) -> None:
        """For schemas, tables and indexes; their place in the database is known, and is always the same."""
        names = [letter * store.identifier_limit + end for end in "ab"]
        frames = {name: pl.DataFrame({"n": [index, None], "m": [1, 2]}) for index, name in enumerate(names)}
        places = {}
        for stage in names:
            schema = store.generation_schema(stage, 1)
            for name, frame in frames.items():
                facts = write(store, frame, name, schema, primary_key="m", indexes=[["n"], ["m", "n"]])
                places[stage, name] = TableLocation(stage, name, schema, facts.table, facts.columns)
                with store.transaction() as transaction:
                    transaction.show(store.schema(stage), name, schema, facts.table)
        assert len({(place.schema, place.table) for place in places.values()}) == 4
        assert set(objects(store, *(place.schema for place in places.values()))) == {
            (place.schema, place.table) for place in places.values()
        }
        for (stage, name), place in places.items():
            schema, table = store.shown_place(stage, name)
            assert read(store, place).equals(frames[name])
            assert read(store, attrs.evolve(place, schema=schema, table=table)).equals(frames[name])
        both = [store.read_table(None, places[names[0], name], sa.Table, "task") for name in names]
        joined = sa.select(both[0].c.n, both[1].c.n.label("o")).join(both[1], both[0].c.m == both[1].c.m)
        facts = write(store, joined.where(both[0].c.m == 1), "joined")
        assert read(store, location(facts, "joined")).rows() == [(0, 1)]

    def test_a_column_whose_name_is_too_long_is_an_error(self, store: SQLTableStore) -> None:
        """A database would cut it off, and the next task would not find it."""
        name = "x" * (store.identifier_limit + 1)
        with pytest.raises(UnsupportedValueError, match=f"Column '{name}' of table 't'"):
            write(store, pl.DataFrame({name: [1]}))

    def test_prefix_and_suffix_leave_room_for_a_stage(self, make_store: Callable[..., SQLTableStore]) -> None:
        """Otherwise no schema would have a name that tells anything."""
        with pytest.raises(ConfigError, match="too long together"):
            make_store(schema_prefix="x" * (make_store().identifier_limit - 20))

    def test_schemas_have_prefix_and_suffix(self, make_store: Callable[..., SQLTableStore]) -> None:
        """The metadata's too."""
        store = make_store(schema_prefix="Pre ", schema_suffix="_suf")
        assert (store.schema("x"), store.generation_schema("x", 12)) == ("Pre x_suf", "Pre x__g12_suf")
        others = ["x__g12", "Pre x__g12", "Pre x_suf", "Pre x__g_suf", "Pre xy__g12_suf", "Pre x__g1x_suf"]
        assert store.generation_number("x", "Pre x__g12_suf") == 12
        assert [schema for schema in others if store.generation_number("x", schema) is not None] == []
        assert objects(store, "Pre pipedag_metadata_suf")
        store.dispose()
