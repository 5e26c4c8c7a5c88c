"""The hash of a frame's data does not depend on how the frame was cut or built."""

from __future__ import annotations

import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from pipedag_airflow.backend.table.sql.frames.content import content_hash

SCHEMA = pa.schema(
    [("flag", pa.bool_()), ("number", pa.int64()), ("text", pa.string()), ("list", pa.list_(pa.int32()))]
)
ROWS = st.lists(
    st.fixed_dictionaries(
        {
            "flag": st.none() | st.booleans(),
            "number": st.none() | st.integers(-5, 5),
            "text": st.none() | st.text(max_size=3),
            "list": st.none() | st.lists(st.none() | st.integers(0, 3), max_size=2),
        }
    ),
    max_size=20,
)


def table(rows: list[dict[str, object]]) -> pa.Table:
    return pa.Table.from_pylist(rows, schema=SCHEMA)


@settings(deadline=None)
@given(ROWS, ROWS)
def test_equal_rows_and_only_they_have_equal_hashes(
    one: list[dict[str, object]], other: list[dict[str, object]]
) -> None:
    assert (content_hash(table(one)) == content_hash(table(other))) is (one == other)


@settings(deadline=None)
@given(ROWS, st.integers(0, 20), st.integers(0, 20))
def test_a_slice_in_pieces_is_the_same_as_its_rows(rows: list[dict[str, object]], start: int, cut: int) -> None:
    part = table(rows).slice(start)
    pieces = pa.concat_tables([part.slice(0, cut), part.slice(cut)])

    assert content_hash(pieces) == content_hash(table(rows[start:]))


def test_categories_are_compared_by_their_values_but_are_another_type_than_text() -> None:
    def categories(indices: list[int], values: list[str]) -> pa.Table:
        return pa.table({"x": pa.DictionaryArray.from_arrays(pa.array(indices, pa.int32()), values)})

    assert content_hash(categories([0, 1], ["a", "b"])) == content_hash(categories([1, 0], ["b", "a"]))
    assert content_hash(categories([0, 1], ["a", "b"])) != content_hash(pa.table({"x": ["a", "b"]}))
