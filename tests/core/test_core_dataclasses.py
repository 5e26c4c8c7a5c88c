"""Rules 1.1.8, 1.1.10 and 5.1: enums and dataclasses as values, and references to the fields of a result."""

from __future__ import annotations

import contextvars
import dataclasses
import enum
import functools
import sys
import types
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import pytest

from pipedag_airflow import Blob, Flow, Stage, Table, materialize
from pipedag_airflow.core.classes import Classes
from pipedag_airflow.core.definition import own
from pipedag_airflow.core.values import Decoder, deep_map, dump_identity, dump_stored
from pipedag_airflow.errors import CacheError, UnsupportedValueError

T = TypeVar("T")


class Color(enum.Enum):
    RED = 1
    BLUE = "b"
    CRIMSON = 1  # noqa: PIE796 - an alias


class Size(enum.IntEnum):
    SMALL = 1


class Mode(enum.StrEnum):
    FAST = "fast"


class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


@dataclass
class Point:
    x: Any
    y: Any = 0

    class Kind(enum.Enum):
        CORNER = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Fixed:
    name: str
    parts: tuple[Any, ...] = ()
    total: int = field(init=False, default=0)


@dataclass
class Doubled:
    amount: int

    def __post_init__(self):
        self.amount *= 2


@dataclass
class Wide(Point):
    z: dataclasses.InitVar[int] = 0
    count: int = field(default=0, compare=False)


class Bare(Point):
    pass


@dataclass
class Box(Generic[T]):
    content: T


@dataclass
class Failure(Exception):
    code: int


@dataclass
class TableOfPoints(Table):
    x: int = 0


@dataclass
class Unset:
    value: int = field(init=False)


def restored(value):
    return Decoder(generation=3, stages={}).load(dump_stored(value))


def local_class(make=dataclass):
    @make
    class Local:
        x: int

    return Local


def stored(container):
    container.locate("clean", 1, "key")
    return container


VALUES = [
    Color.RED,
    Color.CRIMSON,
    Size.SMALL,
    Mode.FAST,
    Right.READ,
    Right.READ | Right.WRITE,
    Right(0),
    Point.Kind.CORNER,
    Point(1, (2, [3])),
    Point(Point(None), {"$": Point("")}),
    Fixed(name="a", parts=(Color.RED, Fixed(name="b"))),
    Doubled(4),
    Wide(1, 2, 3, count=4),
    Bare(1),
    Box[int](1),
    {Mode.FAST: 1, Fixed(name="key"): 2, "fast ": 3},
    10**1000,
    Point(-(10**400), ""),
]


@pytest.mark.parametrize("value", VALUES, ids=lambda value: repr(value)[:40])
def test_enums_and_dataclasses_come_back_equal_and_of_equal_types(value):
    assert restored([value]) == [value]
    assert type(restored(value)) is type(value)
    assert repr(restored(value)) == repr(value)


@pytest.mark.parametrize("member", [*Color, *Size, *Mode, *Right])
def test_a_member_of_an_enum_comes_back_as_itself(member):
    assert restored(member) is member


def test_the_fields_come_back_as_they_were_and_are_not_made_once_more():
    assert restored(Doubled(2)).amount == 4


def test_containers_in_fields_come_back_as_descriptors():
    back = restored(Point(stored(Table(object(), "flights")), [stored(Blob(object(), "model"))]))
    assert (back.x.name, back.x.obj, back.x.generation) == ("flights", None, 3)
    assert isinstance(back.y[0], Blob)


# --- refusals ----------------------------------------------------------------------------------------------------


def test_a_class_that_was_defined_within_a_function_is_refused_when_it_is_returned():
    expected = r"^result\['a'\]\.x is of the class local_class.<locals>.Local, which is defined within a function, .*"
    with pytest.raises(UnsupportedValueError, match=expected + "at the top level of a module"):
        dump_stored({"a": Point(local_class()(1))})


def test_a_class_that_is_not_found_under_its_name_is_refused_when_it_is_returned():
    renamed = dataclasses.make_dataclass("Point", ["x"], namespace={"__module__": __name__})
    expected = f"^result is of the class Point, which is not what 'Point' means in the module '{__name__}'"
    with pytest.raises(UnsupportedValueError, match=expected):
        dump_stored(renamed(1))


def test_an_argument_may_be_of_a_class_that_was_defined_within_a_function():
    assert dump_identity(local_class()(1)) == dump_identity(local_class()(1))


@pytest.mark.parametrize("dump", [dump_stored, dump_identity])
def test_a_refused_value_in_a_field_is_named_by_its_path(dump):
    with pytest.raises(UnsupportedValueError, match=r"^result\[0\]\.x\['a'\]\.parts\[1\] is of type set"):
        dump([Point({"a": Fixed(name="n", parts=(1, {2}))})], "result")


@pytest.mark.parametrize("dump", [dump_stored, dump_identity])
def test_a_field_that_was_never_set_is_refused(dump):
    with pytest.raises(UnsupportedValueError, match=r"^result\.x \(Unset\) has no value in its field 'value'"):
        dump(Point(Unset()), "result")


@pytest.mark.parametrize("dump", [dump_stored, dump_identity])
@pytest.mark.parametrize("value", [Failure(1), Point, Color], ids=["exception", "dataclass", "enum"])
def test_what_is_more_than_its_fields_and_classes_themselves_are_refused(dump, value):
    with pytest.raises(UnsupportedValueError, match=r"^result is of type .* cannot pass between tasks"):
        dump(value, "result")


# --- what the stored names mean later ----------------------------------------------------------------------------

FLOW_CODE = """
import enum
from dataclasses import dataclass

class Color(enum.Enum):
    RED = 1

@dataclass
class Point:
    x: object
    color: Color = Color.RED

def task():
    return Point((1, 2))
"""


def loaded(name, code=FLOW_CODE, monkeypatch=None):
    module = types.ModuleType(name)
    monkeypatch.setitem(sys.modules, name, module)
    exec(compile(code, f"{name}.py", "exec"), vars(module))
    return module


@pytest.fixture
def load(monkeypatch):
    return functools.partial(loaded, monkeypatch=monkeypatch)


def classes_of(*modules):
    return Classes.of_functions(module.task for module in modules)


def decoder(*modules):
    return Decoder(3, {}, classes_of(*modules), "The stored result of task 'clean.task' in stage 'clean'")


@pytest.mark.parametrize(
    ("writer", "reader"),
    [
        ("flow", "unusual_prefix_0123_flow"),
        ("unusual_prefix_0123_flow", "flow"),
        ("__main__", "unusual_prefix_0123_flow"),
        ("flow", "__main__"),
    ],
)
def test_one_file_under_two_module_names_reads_what_the_other_wrote(load, writer, reader):
    ours = load(writer)
    text = dump_stored(ours.task(), classes=classes_of(ours))
    identity = dump_identity(ours.task(), classes=classes_of(ours))
    theirs = load(reader)

    back = decoder(theirs).load(text)

    assert type(back) is theirs.Point
    assert back == theirs.task()
    assert back.color is theirs.Color.RED
    assert dump_identity(back, classes=classes_of(theirs)) == identity


def test_classes_of_one_name_in_two_modules_of_the_flow_are_told_apart(load):
    modules = [load("one_tasks"), load("other_tasks")]
    for module in modules:
        assert type(decoder(*modules).load(dump_stored(module.task(), classes=classes_of(*modules)))) is module.Point


def test_a_class_of_the_same_name_that_the_flow_only_imported_is_another_one(load):
    library, flow = load("some_library"), load("flow")
    text = dump_stored(library.Point(1), classes=classes_of(flow))
    assert type(decoder(flow).load(text)) is library.Point


def test_nothing_is_imported_because_of_a_stored_name(load, monkeypatch, tmp_path):
    library, flow = load("some_library"), load("flow")
    text = dump_stored(library.Point(1), classes=classes_of(flow))
    (tmp_path / "some_library.py").write_text(FLOW_CODE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "some_library")

    expected = (
        r"^The stored result of task 'clean.task' in stage 'clean' .* the dataclass 'Point' of the module "
        "'some_library', which is not there. .*import its module at the top of the flow's"
    )
    with pytest.raises(CacheError, match=expected):
        decoder(flow).load(text)
    assert "some_library" not in sys.modules


def test_a_stored_name_calls_nothing(load):
    module = load("flow", FLOW_CODE + "\ndef __getattr__(name): raise RuntimeError('called')")
    for name in ("Missing", "task", "task.__code__", "Point.__init__", "enum.Enum", "dataclass", "", "."):
        assert Classes().find("flow", name) is None
        assert classes_of(module).find("", name) is None


CHANGES = [
    (
        "class Point:\n    x: object",
        "class Spot:\n    x: object",
        "dataclass 'Point' of the modules of the flow and its tasks",
    ),
    ("x: object", "x: object\n    y: int = 0", "stored with the fields x, color, and now it has x, y, color"),
    ("    color: Color = Color.RED", "", "stored with the fields x, color, and now it has x"),
    ("RED = 1", "BLUE = 1", "the member 'RED' of the enum 'Color', which is not there: its members are BLUE"),
    ("class Color(enum.Enum)", "@dataclass\nclass Color", "the enum 'Color' of the modules of the flow and its tasks"),
]


@pytest.mark.parametrize(("before", "after", "message"), CHANGES, ids=[after for _, after, _ in CHANGES])
def test_a_value_whose_class_was_changed_cannot_be_read_and_says_why(load, before, after, message):
    module = load("flow")
    text = dump_stored(module.task(), classes=classes_of(module))
    changed = FLOW_CODE.replace(before, after).replace("= Color.RED", "= None").replace("Point((", "print((")
    with pytest.raises(CacheError, match=rf"^The stored result of task 'clean.task' in .*{message}"):
        decoder(load("flow", changed)).load(text)


# --- identity ----------------------------------------------------------------------------------------------------


def test_enums_and_dataclasses_count_by_class_and_by_all_that_is_in_them():
    distinct = [
        *Color,
        Size.SMALL,
        Mode.FAST,
        *Right,
        Right.READ | Right.WRITE,
        Point(1),
        Point(2),
        Point(1, 1),
        Bare(1),
        Wide(1),
        Wide(1, count=1),
        {"x": 1, "y": 0},
        [1, 0],
        "RED",
        "fast",
        1,
    ]
    assert len({dump_identity(value) for value in distinct}) == len(distinct)


def unlike(value):
    """An enum whose member has another value."""
    return enum.Enum("Level", {"HIGH": value}, module=__name__).HIGH


@pytest.mark.parametrize(
    ("before", "after"), [(1, 2), ("a", "b"), ((1, 2), (2, 1)), (Point(1), Point(2)), (1, 1.0), (Color.RED, Color.BLUE)]
)
def test_the_value_of_a_member_counts(before, after):
    assert dump_identity(unlike(before)) == dump_identity(unlike(before))
    assert dump_identity(unlike(before)) != dump_identity(unlike(after))


def test_a_member_whose_value_cannot_pass_between_tasks_counts_by_its_name():
    assert dump_identity(unlike(int)) == dump_identity(unlike(str))
    assert dump_identity(unlike(int)) != dump_identity(unlike(1))


def test_classes_of_one_name_in_other_modules_are_not_identical(load):
    flow, other, third = load("flow"), load("some_library"), load("third")
    for value in ("Point(1)", "Color.RED"):
        one, two, three = (eval(value, vars(module)) for module in (flow, other, third))
        texts = [dump_identity(each, classes=classes_of(flow, other)) for each in (one, two, three)]
        assert len({*texts}) == 3
        assert dump_identity(one, classes=classes_of(flow)) != dump_identity(two, classes=classes_of(flow))


def test_the_order_of_the_fields_does_not_count():
    first = dataclasses.make_dataclass("Same", ["x", "y"])
    second = dataclasses.make_dataclass("Same", ["y", "x"])
    assert dump_identity(first(x=1, y=2)) == dump_identity(second(x=1, y=2))


# --- mapping and wiring ------------------------------------------------------------------------------------------


def test_the_fields_of_a_dataclass_are_mapped_and_the_class_stays():
    value = Fixed(name="n", parts=(Point(1, [2]),))
    mapped = deep_map(value, lambda leaf: leaf * 10)
    assert mapped == dataclasses.replace(value, name="n" * 10, parts=(Point(10, [20]),))
    assert value.parts[0].x == 1


def test_a_dataclass_is_another_object_even_if_nothing_in_it_changes():
    value = Point(1, Fixed(name="n"))
    mapped = deep_map(value, lambda leaf: leaf)
    assert mapped == value
    assert mapped is not value
    assert mapped.y is not value.y


@pytest.mark.parametrize("leaf", [Point, Color.RED, Failure(1)], ids=repr)
def test_classes_members_and_exceptions_are_leaves(leaf):
    seen = []
    deep_map([leaf], seen.append)
    assert seen == [leaf]


def test_a_table_of_a_users_own_class_is_one_table():
    seen = []
    table = TableOfPoints(1)
    deep_map([table], seen.append)
    assert seen[0] is table


def test_a_plain_call_unwraps_the_tables_in_a_dataclass():
    @materialize
    def task():
        return Point(Table("frame"), Blob(2))

    assert task() == Point("frame", 2)


@materialize(version="1")
def task(*args):
    return args


def picked(reference, value):
    """Return what a run picks: the flow's block was left then."""
    return contextvars.Context().run(lambda: reference.pick(value))


@pytest.fixture
def flow():
    with Flow("sales") as flow, Stage("clean"):
        yield flow


@pytest.mark.parametrize(
    "wrap",
    [
        lambda made: Point(made),
        lambda made: [Fixed(name="n", parts=({"a": made["x"]},))],
        lambda made: Point(Point(made.x)),
    ],
    ids=["field", "nested", "dataclass in dataclass"],
)
def test_tasks_are_found_in_the_fields_of_a_dataclass(flow, wrap):
    made = task()
    assert own(task(wrap(made)), "inputs") == (made,)


def test_a_field_of_a_result_is_referred_to_as_an_attribute(flow):
    made = task()
    assert picked(made.x, Point(1)) == 1
    assert picked(made["a"].x.y, {"a": Point(Point(1, 2))}) == 2
    assert picked(made.x[0].name, Point([Fixed(name="n")])) == "n"
    assert own(task(made.x), "inputs") == (made,)


def own_names():
    """What a task and a reference are called by themselves."""
    with Flow("sales"), Stage("clean"):
        made = task()
        part = made[0]
    return sorted({name for owner in (made, part) for name in dir(owner) if not name.startswith("_")})


@pytest.mark.parametrize("name", own_names())
def test_a_field_may_be_called_like_something_of_the_task_itself(flow, name):
    made = task()
    kind = dataclasses.make_dataclass("Result", [name])
    assert picked(getattr(made, name), kind(2)) == 2
    assert picked(made[name], kind(2)) == 2
    assert picked(getattr(made["part"], name), {"part": kind(2)}) == 2


def test_after_the_definition_a_task_says_its_own_name_and_id():
    with Flow("sales") as flow, Stage("clean") as stage:
        made = task()
        part = made.name
    assert (made.name, made.id, made.stage, made.flow) == ("task", "clean.task", stage, flow)
    assert (part.task, part.keys) == (made, ("name",))


def test_while_another_flow_is_defined_a_task_says_its_own_name():
    with Flow("first"), Stage("clean"):
        made = task()
    with Flow("second"), Stage("clean"):
        assert made.name == "task"


def test_a_field_with_an_underscore_is_subscripted(flow):
    assert picked(task()["y"]["_x"], Point(1, {"_x": 2})) == 2


def test_a_dataclass_with_elements_of_its_own_is_subscripted_for_both(flow):
    made = task()
    assert picked(made["first"], WithItems({"first": 1})) == 1
    assert picked(made.items, WithItems({"first": 1})) == {"first": 1}


@dataclass
class WithItems:
    items: dict[str, int]

    def __getitem__(self, key):
        return self.items[key]


def test_a_field_that_is_not_there_is_an_error_that_names_those_that_are(flow):
    with pytest.raises(KeyError, match="Point has no field 'z'; its fields are x, y"):
        picked(task().z, Point(1))


def test_a_method_is_no_field(flow):
    with pytest.raises(KeyError, match="no field 'upper'"):
        picked(task().upper, Point(1))


def test_after_the_definition_tasks_have_no_attributes_of_their_results():
    with Flow("sales"), Stage("clean"):
        made = task()
        part = made.x
    for owner, shown in [(made, r"<Task clean\.task>"), (part, r"<clean\.task\['x'\]>")]:
        assert not hasattr(owner, "y")
        with pytest.raises(AttributeError, match=rf"^{shown} has no attribute 'y'.*; write \['y'\] instead"):
            _ = owner.y
    assert picked(made["x"]["y"], Point(Point(1, 2))) == 2


@pytest.mark.parametrize("name", ["_x", "__len__", "__array__", "_repr_html_"])
def test_names_with_an_underscore_are_no_fields(flow, name):
    assert not hasattr(task(), name)
    assert not hasattr(task().x, name)


def position(make):
    with Flow("sales") as flow, Stage("clean"):
        task(make(task()))
    return flow.plan().nodes[1].position


def test_fields_count_for_the_position_in_the_graph():
    made = [
        lambda made: made,
        lambda made: made.x,
        lambda made: made.y,
        lambda made: Point(made.x),
        lambda made: Point(made.x, made),
    ]
    assert len({position(make) for make in made}) == len(made)
    assert position(lambda made: made.x) == position(lambda made: made["x"])
