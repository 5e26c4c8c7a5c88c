"""Enums and dataclasses through whole runs: fresh, from the cache, and read by another process."""

from __future__ import annotations

import datetime as dt
import enum
import sys
import types
import zoneinfo
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pandas as pd
import pytest

from pipedag_airflow import Blob, Flow, RawSql, Stage, Table, materialize
from pipedag_airflow.errors import CacheError, UnsupportedValueError

if TYPE_CHECKING:
    from collections.abc import Callable

    from conftest import Project


class Season(enum.StrEnum):
    SUMMER = "summer"


class Right(enum.Flag):
    READ = enum.auto()
    WRITE = enum.auto()


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    rights: Right = Right.READ | Right.WRITE
    pair: tuple[Any, ...] = (1, (Season.SUMMER, ""))
    amount: int = 10**300


@dataclass
class Outcome:
    frame: Any
    model: Any
    season: Season = Season.SUMMER
    limits: Limits = field(default_factory=Limits)
    by_season: dict[Season, Any] = field(default_factory=dict)
    nothing: list[Any] = field(default_factory=lambda: [None, [None]])


@dataclass
class Model:
    weights: Any


def rows(*values: int) -> pd.DataFrame:
    return pd.DataFrame({"x": [*values]})


def pipeline(project: Project) -> Flow:
    @materialize(version="1")
    def make() -> Outcome:
        project.call("make")
        return Outcome(
            Table(rows(1, 2), "one"), Blob({"w"}, "model"), by_season={Season.SUMMER: [Table(rows(3), "two")]}
        )

    @materialize(version="1", input_type=pd.DataFrame)
    def whole(outcome: Outcome) -> list[Any]:
        project.call("whole")
        assert type(outcome) is Outcome
        assert outcome.limits == Limits()
        assert outcome.by_season[Season.SUMMER][0]["x"].tolist() == [3]
        return [outcome.season, sorted(outcome.model), outcome.frame["x"].tolist()]

    @materialize(version="1", input_type=pd.DataFrame)
    def parts(frame: pd.DataFrame, rights: Right, wrapped: Outcome) -> Outcome:
        project.call("parts")
        assert wrapped.model == 10**300
        assert wrapped.frame["x"].tolist() == [3]
        return Outcome(frame["x"].tolist(), rights)

    with Flow("dataclasses") as flow:
        with Stage("first"):
            made = make()
        with Stage("second"):
            whole(made)
            second_table = made.by_season[Season.SUMMER][0]
            parts(made.frame, made.limits.rights, Outcome(second_table, made.limits.amount))
    return flow


def shown(value: Outcome) -> Any:
    """An outcome without its frames, whose equality is another one."""
    return value.frame["x"].tolist(), value.model, value.season, value.limits, value.nothing


def test_a_fresh_and_a_cached_run_give_equal_values_of_equal_types(project: Project) -> None:
    fresh_flow, cached_flow = pipeline(project), pipeline(project)
    fresh = project.run(fresh_flow)
    assert project.called == ["make", "whole", "parts"]
    cached = project.run(cached_flow)
    assert project.called == []

    for result, flow in [(fresh, fresh_flow), (cached, cached_flow)]:
        outcome = result.get(flow["first"]["make"], as_type=pd.DataFrame)
        assert shown(outcome) == ([1, 2], {"w"}, Season.SUMMER, Limits(), [None, [None]])
        assert type(outcome) is Outcome
        assert type(outcome.limits.pair) is tuple
        assert outcome.by_season[Season.SUMMER][0]["x"].tolist() == [3]
        assert result.get(flow["second"]["whole"]) == [Season.SUMMER, ["w"], [1, 2]]
        assert result.get(flow["second"]["parts"]) == Outcome([1, 2], Right.READ | Right.WRITE)


def test_a_field_of_a_result_is_got_by_a_reference(project: Project) -> None:
    @materialize(version="1", input_type=pd.DataFrame)
    def make() -> Outcome:
        return Outcome(Table(rows(1, 2), "one"), None)

    with Flow("fields") as flow, Stage("first"):
        made = make()
        frame, amount = made.frame, made.limits.amount

    result = project.run(flow)

    assert result.get(frame)["x"].tolist() == [1, 2]
    assert result.get(amount) == result.get(made["limits"]["amount"]) == 10**300


def test_scripts_in_a_field_give_their_tables(project: Project) -> None:
    @materialize(version="1")
    def make(stage: Stage) -> Outcome:
        return Outcome(RawSql(f"create table {stage.current_name}.made as select 7 as x"), None)

    @materialize(version="1", input_type=pd.DataFrame)
    def use(frame: pd.DataFrame) -> list[int]:
        return frame["x"].tolist()

    with Flow("scripts") as flow:
        with Stage("first") as stage:
            made = make(stage)
        with Stage("second"):
            used = use(made.frame["made"])

    assert project.run(flow).get(used) == [7]


def test_a_dataclass_can_be_a_blob_by_configuration(project: Project) -> None:
    @materialize(version="1")
    def make() -> list[Model]:
        return [Model({"a", "b"})]

    with Flow("blobs") as flow, Stage("first"):
        made = make()

    result = project.run(flow, config=project.config(auto_blob=[f"{__name__}.Model"]))

    assert result.get(made) == [Model({"a", "b"})]


def test_a_changed_field_of_an_argument_runs_the_task_again(project: Project) -> None:
    @materialize(version="1")
    def use(limits: Limits, season: Season) -> int:
        project.call("use")
        return limits.amount

    def flow(amount: int) -> Flow:
        with Flow("literals") as flow, Stage("first"):
            use(Limits(amount=amount), Season.SUMMER)
        return flow

    assert project.executed(flow(1)) == ["use"]
    assert project.executed(flow(1)) == []
    assert project.executed(flow(2)) == ["use"]


@dataclass
class Local:
    x: int


Local.__qualname__ = "make.<locals>.Local"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (Outcome([Local(1)], None), r"result\.frame\[0\] is of the class .*Local, which is defined within a function"),
        (Outcome(None, {"a": (1, {2})}), r"result\.model\['a'\]\[1\] is of type set"),
    ],
    ids=["local class", "set"],
)
def test_what_cannot_be_stored_is_refused_when_it_is_returned(project: Project, value: Any, message: str) -> None:
    @materialize(version="1")
    def make() -> Any:
        return value

    with Flow("refused") as flow, Stage("first"):
        make()

    with pytest.raises(UnsupportedValueError, match=rf"^Task 'first\.make': {message}"):
        project.run(flow)


def test_values_that_python_writes_badly_pass_between_tasks_and_runs(project: Project) -> None:
    berlin = zoneinfo.ZoneInfo("Europe/Berlin")
    value = [10**5000, {10**5000: dt.time(1, tzinfo=berlin)}, dt.datetime(2024, 10, 27, 2, 30, tzinfo=berlin, fold=1)]

    @materialize(version="1")
    def make(given: Any) -> Any:
        return given

    @materialize(version="1")
    def read(given: Any) -> str:
        return str(given[2].utcoffset())

    def flow() -> Flow:
        with Flow("sharp") as flow, Stage("first"):
            read(make(value))
        return flow

    for _ in ("fresh", "cached"):
        wired = flow()
        result = project.run(wired)
        back = result.get(wired["first"]["make"])
        assert back == value
        assert (back[1][10**5000].tzinfo, back[2].tzinfo, back[2].fold) == (berlin, berlin, 1)
        assert result.get(wired["first"]["read"]) == "1:00:00"
    assert project.executed(flow()) == []


def test_a_result_that_holds_itself_is_refused_with_its_path(project: Project) -> None:
    @materialize(version="1")
    def make() -> Any:
        circle: list[Any] = [1]
        circle.append({"a": circle})
        return circle

    with Flow("refused") as flow, Stage("first"):
        make()

    with pytest.raises(UnsupportedValueError, match=r"^Task 'first\.make': result\[1\]\['a'\] is .* itself"):
        project.run(flow)


# --- other processes, other versions of the code -----------------------------------------------------------------

FLOW_CODE = """
import enum
from dataclasses import dataclass
from pipedag_airflow import Flow, Stage, materialize

class Color(enum.Enum):
    RED = 1

@dataclass
class Point:
    x: object
    color: Color

@materialize(version="1")
def make():
    called.append("make")
    return Point((1, 2), Color.RED)

@materialize(version="1")
def use(point, color):
    called.append("use")
    assert type(point) is Point
    return point.x

with Flow("points") as flow:
    with Stage("first"):
        made = make()
    with Stage("second"):
        used = use(made, made.color)
"""


@pytest.fixture
def load(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[..., types.ModuleType]:
    def load(name: str, code: str = FLOW_CODE) -> types.ModuleType:
        """Return the module of a flow file as a new process knows it under that name."""
        module = types.ModuleType(name)
        vars(module)["called"] = project.called
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(code, "points.py", "exec"), vars(module))
        return module

    return load


@pytest.mark.parametrize(
    ("first", "second"), [("points", "unusual_prefix_0123_points"), ("unusual_prefix_0123_points", "__main__")]
)
def test_processes_that_know_the_file_by_other_names_read_each_others_values(
    project: Project, load: Callable[..., types.ModuleType], first: str, second: str
) -> None:
    writer = load(first)
    project.run(writer.flow)
    assert project.called == ["make", "use"]
    del sys.modules[first]

    reader = load(second)
    result = project.run(reader.flow)

    assert project.called == []
    assert type(result.get(reader.made)) is reader.Point
    assert result.get(reader.made) == reader.Point((1, 2), reader.Color.RED)
    assert result.get(reader.used) == (1, 2)


TASKS_CODE = """
from pipedag_airflow import materialize

@materialize(version="1")
def give(value):
    called.append("give")
    return value
"""

WIRING_CODE = """
from dataclasses import dataclass
from pipedag_airflow import Flow, Stage
from points_tasks import give

@dataclass
class Point:
    x: int

with Flow("points") as flow:
    with Stage("first"):
        given = give(Point(1))
"""


def test_a_class_may_stand_beside_the_flow_while_its_tasks_stand_elsewhere(
    project: Project, load: Callable[..., types.ModuleType]
) -> None:
    load("points_tasks", TASKS_CODE)
    project.run(load("points", WIRING_CODE).flow)
    assert project.called == ["give"]
    del sys.modules["points"]

    reader = load("unusual_prefix_0123_points", WIRING_CODE)
    result = project.run(reader.flow)

    assert project.called == []
    assert result.get(reader.given) == reader.Point(1)


def test_what_is_published_is_read_where_the_class_stands_beside_the_flow(
    project: Project, load: Callable[..., types.ModuleType]
) -> None:
    load("points_tasks", TASKS_CODE)
    wiring = load("points", WIRING_CODE)
    result = project.run(wiring.flow)

    with project.config():
        assert wiring.given.get_output_from_store() == result.get(wiring.given) == wiring.Point(1)


MEMBERS_CODE = """
import enum
from pipedag_airflow import Flow, Stage, materialize
import kinds

class Mode(enum.Enum):
    FAST = 1

@materialize(version="1", cache=lambda mode, kind: mode)
def use(mode, kind):
    called.append("use")
    return mode.value

with Flow("members") as flow, Stage("s"):
    used = use(Mode.FAST, kinds.Kind.A)
"""
KINDS_CODE = """
import enum

class Kind(enum.Enum):
    A = "a"

class Mode(enum.Enum):
    FAST = 1
"""


@pytest.mark.parametrize(
    ("code", "kinds"),
    [
        (MEMBERS_CODE.replace("FAST = 1", "FAST = 2"), KINDS_CODE),
        (MEMBERS_CODE, KINDS_CODE.replace('"a"', '"b"')),
        (MEMBERS_CODE.replace("use(Mode", "use(kinds.Mode"), KINDS_CODE),
    ],
    ids=["a value in the flow's module", "a value in another module", "a class of the same name in another module"],
)
def test_another_member_than_before_runs_the_task_again(
    project: Project, load: Callable[..., types.ModuleType], code: str, kinds: str
) -> None:
    load("kinds", KINDS_CODE)
    project.run(load("members", MEMBERS_CODE).flow)
    assert project.called == ["use"]
    project.run(load("unusual_prefix_0123_members", MEMBERS_CODE).flow)
    assert project.called == []

    load("kinds", kinds)
    project.run(load("members", code).flow)
    assert project.called == ["use"]


@pytest.mark.parametrize(
    ("before", "after", "detail"),
    [
        ("    color: Color", "    color: Color\n    y: int = 0", "now it has x, color, y"),
        ("RED", "BLUE", "the member 'RED' of the enum 'Color', which is not there"),
        ("Point", "Place", "the dataclass 'Point' of the modules of the flow and its tasks, which is not there"),
    ],
    ids=["a new field", "a renamed member", "a renamed class"],
)
def test_a_result_of_a_changed_class_is_made_anew_and_the_reason_is_said(
    project: Project,
    load: Callable[..., types.ModuleType],
    caplog: pytest.LogCaptureFixture,
    before: str,
    after: str,
    detail: str,
) -> None:
    project.run(load("points").flow)
    changed = load("points", FLOW_CODE.replace(before, after))
    caplog.set_level("INFO")

    result = project.run(changed.flow)

    assert project.called == ["make", "use"]
    assert result.get(changed.used) == (1, 2)
    assert (
        "first.make: runs (value_unreadable): The stored result of task 'first.make' in stage 'first' is" in caplog.text
    )
    assert detail in caplog.text
    assert project.executed(changed.flow) == []


def test_a_step_that_cannot_read_its_input_says_what_to_do(
    project: Project, load: Callable[..., types.ModuleType]
) -> None:
    project.run(load("points").flow)
    changed = load("points", FLOW_CODE.replace("Point", "Place"))
    with pytest.raises(
        CacheError, match=r"of task 'first\.make' in stage 'first' is or holds .*'Point'.* Define it again"
    ):
        project.run(changed.flow, changed.flow["second"])


@dataclass
class Item:
    id: int
    name: str
    keys: list[str]


def test_fields_that_are_called_like_something_of_a_task_are_passed_on(project: Project) -> None:
    @materialize(version="1")
    def make() -> Item:
        return Item(7, "bolt", ["a"])

    @materialize(version="1")
    def use(*args: Any) -> list[Any]:
        return [*args]

    with Flow("names") as flow, Stage("s"):
        item = make()
        use(item.id, item.name, item.keys, item.keys[0])

    assert project.run(flow).get(flow["s"]["use"]) == [7, "bolt", ["a"], "a"]


@dataclass
class Counter:
    n: int = 1

    def __post_init__(self) -> None:
        self.start = self.n


def test_a_task_that_changes_its_argument_changes_it_for_nobody_else(project: Project) -> None:
    counter = Counter()

    @materialize(name="change", version="1")
    def change(counter: Counter) -> int:
        counter.n += 10
        return counter.n

    @materialize(name="look", version="1")
    def look(counter: Counter, before: int) -> list[int]:
        return [before, counter.n, counter.start]

    with Flow("counters") as flow, Stage("one"):
        seen = look(counter, change(counter))
    assert project.run(flow).get(seen) == [11, 1, 1], "what __post_init__ added is there, too"
    assert counter == Counter()


def test_what_is_changed_while_a_run_lasts_changes_nothing_in_it(project: Project) -> None:
    counter = Counter()

    @materialize(version="1")
    def change() -> int:
        counter.n = 20
        return 0

    @materialize(version="1")
    def look(counter: Counter, before: int) -> int:
        return counter.n + before

    with Flow("counters") as flow, Stage("one"):
        seen = look(counter, change())
    assert project.run(flow).get(seen) == 1
