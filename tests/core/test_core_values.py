"""Rules 3.2, 5.1 and 10.24: what may pass between tasks, how it is kept, and what counts for identity."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import io
import json
import math
import sys
import zoneinfo
from collections import OrderedDict, namedtuple
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path, PurePosixPath
from typing import Any

import dateutil.tz
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipedag_airflow import Blob, RawSql, Stage, Table
from pipedag_airflow.core.values import Decoder, deep_map, dump_identity, dump_stored
from pipedag_airflow.errors import CacheError, UnsupportedValueError

Pair = namedtuple("Pair", ["left", "right"])
SUMMER = dt.timezone(dt.timedelta(hours=2))
BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


class Text(str):
    __slots__ = ()


class Color(enum.IntEnum):
    RED = 1


class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


@dataclass(frozen=True, order=True)
class Key:
    first: Any
    second: Any = None


@dataclass(slots=True, kw_only=True)
class Settings:
    content: Any = None
    more: Any = field(default_factory=list)


class SomePath(type(Path())):
    pass


def restored(value, **stages):
    return Decoder(generation=3, stages=stages).load(dump_stored(value))


def fields(value):
    return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}


def shape(value):
    """Return a value with the type of each of its parts, so that 1, 1.0 and True differ."""
    if type(value) in (list, tuple):
        return type(value), [shape(item) for item in value]
    if type(value) is dict:
        return dict, [(shape(key), shape(item)) for key, item in value.items()]
    if dataclasses.is_dataclass(value):
        return type(value), shape(fields(value))
    return type(value), repr(value)


scalars = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=[]))
    | st.dates()
    | st.datetimes()
    | st.datetimes(timezones=st.sampled_from([dt.UTC, SUMMER, BERLIN]))
    | st.times()
    | st.times(timezones=st.sampled_from([dt.UTC, SUMMER, BERLIN]))
    | st.timedeltas()
    | st.builds(Path, st.text("ab/. ", min_size=1))
    | st.sampled_from([*Color, *Right, Right(0), Right.READ | Right.WRITE])
)
keys = (
    scalars | st.tuples(scalars, scalars) | st.builds(Key, scalars, scalars) | st.sampled_from(["$", "v", "1", 1, 1.5])
)
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(keys, inner, max_size=4)
        | st.dictionaries(st.sampled_from(["$", "v", "a"]), inner)
        | st.builds(Key, inner, inner)
        | st.builds(Settings, content=inner, more=inner)
    ),
    max_leaves=20,
)

# --- the stored form ---------------------------------------------------------------------------------------------


@given(values)
def test_a_stored_value_comes_back_equal_and_of_equal_types(value):
    assert restored(value) == value
    assert shape(restored(value)) == shape(value)


@pytest.mark.parametrize(
    "value",
    [
        (1, (2, [3, ()])),
        {1: "int", "1": "str", 2.5: "float", None: "none", (1, "a"): "tuple", dt.date(2024, 1, 1): "date"},
        {True: "bool", 2: "int"},
        {"$": "tuple", "v": [1]},
        {"a": {"$": {"$": "path", "v": "x"}}},
        10**400,
        -0.0,
        "",
        "\x00 \ud800 ü 🦆",
        [None, [None, {"x": None}]],
        Path("a/b c.txt"),
        dt.datetime(2024, 5, 6, 7, 8, 9, 10, SUMMER),
        dt.time(7, 8, 9, 10, dt.UTC),
        dt.time(1, tzinfo=BERLIN),
        dt.datetime(2024, 5, 6, 7, 8, tzinfo=BERLIN),
        dt.datetime(2024, 10, 27, 2, 30, tzinfo=BERLIN, fold=1),
        dt.datetime(2024, 10, 27, 2, 30, fold=1),  # noqa: DTZ001 - one without a zone
        dt.datetime(2024, 1, 1, tzinfo=zoneinfo.ZoneInfo("UTC")),
        dt.time(2, 30, fold=1),
        dt.timedelta(days=-1, microseconds=1),
    ],
    ids=repr,
)
def test_sharp_values_come_back(value):
    assert shape(restored(value)) == shape(value)


class Local(dt.tzinfo):
    """A zone without a name, two hours ahead on every day but unknown for a time alone."""

    def utcoffset(self, moment):
        return None if moment is None else dt.timedelta(hours=2)

    def dst(self, moment):
        return None


def zone_of_a_file(key):
    data = resources.files("tzdata.zoneinfo").joinpath("Europe/Berlin").read_bytes()
    return zoneinfo.ZoneInfo.from_file(io.BytesIO(data), key=key)


@pytest.mark.parametrize(
    "zone",
    [
        Local(),
        dateutil.tz.gettz("Europe/Berlin"),
        zone_of_a_file(None),
        zone_of_a_file("/etc/localtime"),
        zone_of_a_file("Europe/Atlantis"),
    ],
    ids=["own", "dateutil", "no key", "path as key", "unknown key"],
)
@pytest.mark.parametrize("dump", [dump_stored, dump_identity])
def test_a_time_in_a_zone_that_could_not_be_found_again_is_refused(dump, zone):
    for time in (dt.datetime(2024, 5, 6, 7, 8, tzinfo=zone), dt.time(1, tzinfo=zone)):
        with pytest.raises(UnsupportedValueError, match=r"^result\['at'\] is .*whose zone .* Use zoneinfo\.ZoneInfo\("):
            dump({"at": time}, "result")


@pytest.mark.parametrize("key", ["Europe/Atlantis", "/etc/localtime", "Europe"])
def test_a_zone_that_this_machine_does_not_know_is_a_clear_error(key):
    text = dump_stored([dt.time(1, tzinfo=BERLIN)]).replace("Europe/Berlin", key)
    with pytest.raises(CacheError, match=f"a time in the zone '{key}', which this machine does not know"):
        Decoder(3, {}).load(text)


def test_zone_and_fold_count_for_identity():
    moments = [dt.datetime(2024, 10, 27, 2, 30, tzinfo=zone, fold=fold) for zone in (BERLIN, SUMMER) for fold in (0, 1)]
    assert len({dump_identity(moment) for moment in moments}) == 4


@pytest.mark.parametrize("value", [10**5000, -(10**5000), 2**2048, -(2**2048) + 1], ids=["5000", "-5000", "2k", "-2k"])
def test_an_int_may_be_of_any_size(value):
    assert restored([value, {value: value}]) == [value, {value: value}]
    assert dump_identity(value) == dump_identity(value)
    assert dump_identity(value) != dump_identity(value + 1)


def test_a_refused_value_under_a_huge_key_is_an_error_of_ours():
    with pytest.raises(UnsupportedValueError, match=r"^result\[a key of type int\] is of type set"):
        dump_stored({10**5000: {1}})


def circular_list():
    value = [1]
    value.append({"a": (value,)})
    return value, r"\[1\]\['a'\]\[0\] is {where} itself"


def circular_dict():
    value = {"x": {}}
    value["x"]["y"] = value["x"]
    return [value], r"\[0\]\['x'\]\['y'\] is {where}\[0\]\['x'\] itself"


def circular_dataclass():
    value = Settings()
    value.more.append(value)
    return value, r"\.more\[0\] is {where} itself"


@pytest.mark.parametrize("dump", [dump_stored, dump_identity])
@pytest.mark.parametrize("make", [circular_list, circular_dict, circular_dataclass])
def test_a_value_that_holds_itself_is_refused_with_its_path(dump, make):
    value, path = make()
    with pytest.raises(UnsupportedValueError, match="^result" + path.format(where="result")):
        dump(value, "result")


def test_the_stored_form_is_json_in_ascii():
    text = dump_stored({"ü": ("🦆", Path("x"))})
    assert text.isascii()
    assert json.loads(text)


def test_stored_numbers_are_exact():
    assert restored([sys.float_info.max, sys.float_info.min, 0.1 + 0.2]) == [
        sys.float_info.max,
        sys.float_info.min,
        0.1 + 0.2,
    ]


def stored(container, key="key"):
    container.locate("clean", 1, key)
    return container


def test_a_stored_table_comes_back_as_a_descriptor_in_the_generation_that_is_read():
    table = restored(
        stored(Table(object(), "flights", primary_key="id", indexes=[["a", "b"]], nullable=["a"], non_nullable=["b"]))
    )
    assert type(table) is Table
    assert (table.obj, table.name, table.primary_key, table.indexes) == (None, "flights", ["id"], [["a", "b"]])
    assert (table.nullable, table.non_nullable) == (["a"], ["b"])
    assert (table.stage, table.generation, table.cache_key) == ("clean", 3, "key")


def test_a_table_that_was_stored_before_there_was_an_option_comes_back_without_it():
    before = {"$": "table", "name": "flights", "stage": "clean", "key": "key"}
    table = Decoder(3, {}).load(json.dumps(before))
    assert (table.name, table.stage, table.cache_key, table.primary_key, table.nullable) == (
        "flights",
        "clean",
        "key",
        None,
        None,
    )


def test_a_stored_blob_comes_back_as_a_descriptor():
    blob = restored(stored(Blob(object(), "model")))
    assert type(blob) is Blob
    assert (blob.obj, blob.name, blob.stage, blob.generation, blob.cache_key) == (None, "model", "clean", 3, "key")


def test_a_stored_script_comes_back_with_its_tables_and_without_its_text():
    script = stored(RawSql("SELECT 1", "script"))
    script.table_names = ["A", "b"]
    back = restored(script)
    assert type(back) is RawSql
    assert (back.sql, back.name, list(back), back.cache_key) == (None, "script", ["A", "b"], "key")
    assert back["a"].cache_key == script["a"].cache_key


def test_a_users_subclass_of_a_container_comes_back_as_that_container():
    class Measurements(Table):
        pass

    back = restored(stored(Measurements(None, "m", primary_key="id")))
    assert type(back) is Table
    assert back.primary_key == ["id"]


def test_containers_come_back_within_other_values():
    back = restored({"x": [(stored(Table(None, "t")), 1)]})
    assert isinstance(back["x"][0][0], Table)


@pytest.mark.parametrize("dump", [dump_stored, dump_identity])
@pytest.mark.parametrize("container", [Table("frame", "t"), Blob(1, "b"), RawSql("SELECT 1", "s")])
def test_a_container_that_no_task_returned_is_refused(dump, container):
    with pytest.raises(UnsupportedValueError, match=r"^value\['x'\] is <.*>, which is not stored: return it"):
        dump({"x": container}, "value")


def test_a_stage_comes_back_as_the_stage_of_the_flow():
    stage = Stage("Clean")
    assert restored([stage], clean=stage)[0] is stage


def test_a_stage_that_the_flow_no_longer_has_is_a_clear_error():
    with pytest.raises(CacheError, match="the stage 'clean', which the flow no longer has"):
        restored([Stage("clean")])


# --- the identity form -------------------------------------------------------------------------------------------


@given(values)
def test_equal_values_have_equal_identities(value):
    assert dump_identity(restored(value)) == dump_identity(value)


def as_lists(value):
    if type(value) in (list, tuple):
        return [as_lists(item) for item in value]
    if type(value) is dict:
        return {key: as_lists(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value):
        return type(value)(**as_lists(fields(value)))
    return value


def reversed_dicts(value):
    if type(value) in (list, tuple):
        return type(value)(map(reversed_dicts, value))
    if type(value) is dict:
        return {key: reversed_dicts(item) for key, item in reversed(value.items())}
    if dataclasses.is_dataclass(value):
        return type(value)(**reversed_dicts(fields(value)))
    return value


@given(values)
def test_lists_and_tuples_are_one(value):
    assert dump_identity(value) == dump_identity(as_lists(value))


@given(values)
def test_the_order_of_a_dict_does_not_count(value):
    assert dump_identity(value) == dump_identity(reversed_dicts(value))


def canonical(value):
    """Return a value in a form in which all that is one for the identity is equal, and nothing else."""
    if type(value) in (list, tuple):
        return "list", [canonical(item) for item in value]
    if type(value) is dict:
        return "dict", sorted(repr((canonical(key), canonical(item))) for key, item in value.items())
    if dataclasses.is_dataclass(value):
        return type(value), canonical(fields(value))
    return type(value), repr(value)


@given(values, values)
def test_only_equal_values_have_equal_identities(left, right):
    assert (dump_identity(left) == dump_identity(right)) == (canonical(left) == canonical(right))


DISTINCT = [1, 1.0, True, "1", None, "None", [], {}, [1], {"1": 1}, {1: 1}, {"$": 1}, Path("1"), dt.date(2024, 1, 1)]
DISTINCT += [
    "2024-01-01",
    dt.datetime(2024, 1, 1, tzinfo=dt.UTC),
    dt.timedelta(1),
    Stage("1"),
    [[]],
    [None],
    "",
    0,
    -1,
    {"v": 1},
]


def test_values_of_different_types_have_different_identities():
    assert len({dump_identity(value) for value in DISTINCT}) == len(DISTINCT)


def test_a_container_counts_by_stage_and_cache_key_and_not_by_its_name():
    one = stored(Table("frame", "a", primary_key="id"))
    assert dump_identity(one) == dump_identity(stored(Table(None, "b")))
    assert dump_identity(one) != dump_identity(stored(Table("frame", "a"), key="another"))
    assert dump_identity(one) != dump_identity(stored(Blob(None, "a")))


def test_the_generation_does_not_count():
    one, other = Table(), Table()
    one.locate("clean", 1, "key")
    other.locate("clean", 2, "key")
    assert dump_identity(one) == dump_identity(other)
    assert dump_stored(one) == dump_stored(other)


def test_the_tables_of_a_script_count():
    one, other = stored(RawSql()), stored(RawSql())
    other.table_names = ["a"]
    assert dump_identity(one) != dump_identity(other)


def test_objects_that_only_the_caller_knows_are_encoded_by_the_caller():
    def special(value, where):
        return {"$": "decimal", "v": str(value)} if isinstance(value, decimal.Decimal) else NotImplemented

    one = dump_identity([decimal.Decimal("1.5")], special=special)
    assert one != dump_identity([decimal.Decimal("1.6")], special=special)
    with pytest.raises(UnsupportedValueError):
        dump_identity([1j], special=special)


# --- refusals ----------------------------------------------------------------------------------------------------

REFUSED = [
    ({1}, "set", r"sorted\(\.\.\.\)"),
    (frozenset(), "frozenset", r"sorted\(\.\.\.\)"),
    (b"x", "bytes", "Wrap it in Table"),
    (decimal.Decimal(1), "decimal.Decimal", "Wrap it in Table"),
    (1j, "complex", "Wrap it in Table"),
    (np.int64(1), "numpy.int64", r"\.item\(\)"),
    (np.float64(1), "numpy.float64", r"\.item\(\)"),
    (np.bool_(True), "numpy.bool", r"\.item\(\)"),
    (np.str_("x"), "numpy.str_", r"\.item\(\)"),
    (pd.Timestamp("2024-01-01"), "Timestamp", r"Call \.to_pydatetime\(\)"),
    (pd.Timedelta("1s"), "Timedelta", r"\.to_pytimedelta\(\)"),
    (pd.NaT, "NaTType", "None for NaT"),
    (pd.DataFrame({"a": [1]}), "DataFrame", "Wrap it in Table"),
    (object(), "object", "Wrap it in Table"),
    (len, "builtin_function_or_method", "Wrap it in Table"),
    (int, "type", "Wrap it in Table"),
    (Text("x"), "Text", "Wrap it in Table"),
    (Pair(1, 2), "Pair", "Wrap it in Table"),
    (OrderedDict(), "OrderedDict", "Wrap it in Table"),
    (PurePosixPath("x"), "PurePosixPath", "Wrap it in Table"),
    (SomePath("x"), "SomePath", "Wrap it in Table"),
]


@pytest.mark.parametrize("dump", [dump_stored, dump_identity])
@pytest.mark.parametrize(("value", "kind", "hint"), REFUSED, ids=[kind for _, kind, _ in REFUSED])
def test_what_cannot_be_stored_is_refused_with_its_path_its_type_and_a_hint(dump, value, kind, hint):
    expected = rf"^result\['a'\]\[1\]\[0\] is of type (\S+\.)?{kind}, which cannot pass between tasks.* {hint}"
    with pytest.raises(UnsupportedValueError, match=expected):
        dump({"a": [0, (value,)]}, "result")


@pytest.mark.parametrize("dump", [dump_stored, dump_identity])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_numbers_that_are_not_finite_are_refused_with_their_path(dump, value):
    with pytest.raises(UnsupportedValueError, match=rf"^result\[0\]\['x'\] is {value}: only finite .* use None"):
        dump([{"x": value}], "result")


@pytest.mark.parametrize("dump", [dump_stored, dump_identity])
@pytest.mark.parametrize("key", [b"x", np.int64(1), math.inf, (1, b"x")])
def test_a_key_that_cannot_be_stored_is_refused_with_its_path(dump, key):
    with pytest.raises(UnsupportedValueError, match=r"^key .* of result\[0\]"):
        dump([{key: 1}], "result")


def test_a_value_may_hold_another_one_twice():
    part = [1]
    assert restored([part, part, {"a": part}]) == [[1], [1], {"a": [1]}]


# --- mapping over values -----------------------------------------------------------------------------------------


@given(values)
def test_mapping_nothing_changes_nothing(value):
    assert shape(deep_map(value, lambda leaf: leaf)) == shape(value)


def test_every_leaf_is_mapped_and_keys_too():
    assert deep_map({1: [2, (3, {4})]}, lambda leaf: leaf if isinstance(leaf, set) else -leaf) == {-1: [-2, (-3, {4})]}


@pytest.mark.parametrize("value", [OrderedDict(a=1), Pair(1, 2), {1}, frozenset([1])])
def test_only_exact_lists_tuples_and_dicts_are_entered(value):
    seen = []
    assert deep_map([value], lambda leaf: seen.append(leaf) or leaf)[0] is value
    assert seen == [value]
