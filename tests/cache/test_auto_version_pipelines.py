"""AUTO_VERSION of random pandas and polars pipelines: an edit that changes the result changes the version."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import attrs
import pandas as pd
import polars as pl
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from pipedag_airflow.cache.auto_version import code_version

DATA = {"a": [3, 1, 2, 2], "b": [1.5, -2.0, 0.0, 4.0], "c": ["x", "y", "x", "z"]}


@attrs.frozen
class Dialect:
    """How pipelines are written with a library; ``{n}`` stands for a number, ``{column}`` for a column of numbers."""

    head: str
    steps: tuple[str, ...]

    def source(self, pipeline: Pipeline) -> str:
        """The module of a pipeline in which each number stands where its place says."""
        lines, body, given = ["import enum\nfrom dataclasses import dataclass", self.head], [], []
        for index, step in enumerate(pipeline.steps):
            name, number = f"number_{index}", repr(step.number)
            argument = f"given[{len(given)}]"
            if step.place == "global":
                lines.append(f"{name} = {number}")
            elif step.place == "helper":
                lines.append(f"def get_{name}():\n    return {number}")
            elif step.place == "dataclass":
                lines.append(f"@dataclass\nclass Rule_{index}:\n    def number(self):\n        return {number}")
                given.append(f"Rule_{index}()")
            elif step.place == "enum":
                lines.append(f"class Mode_{index}(enum.Enum):\n    ONE = {number}")
                given.append(f"Mode_{index}.ONE")
            written = {
                "global": name,
                "helper": f"get_{name}()",
                "inline": number,
                "local": name,
                "dataclass": f"{argument}.number()",
                "enum": f"{argument}.value",
            }[step.place]
            if step.place == "local":
                body.append(f"{name} = {number}")
            body.append("frame = " + self.steps[step.kind].format(n=written, column=step.column))
        task = "\n".join(f"    {line}" for line in ["'''The task.'''", *body, "return frame"])
        return "\n".join([*lines, f"GIVEN = [{', '.join(given)}]", "def task(frame, given):", task])


@attrs.frozen
class Step:
    """One operation of a pipeline."""

    kind: int
    column: str
    number: int
    place: str


@attrs.frozen
class Pipeline:
    """The operations of a pipeline."""

    steps: tuple[Step, ...]


PANDAS = Dialect(
    "import pandas as pd\ndef add(values, n): return values + n",
    (
        "frame.assign({column}=frame['{column}'] + {n})",
        "frame.assign({column}=frame['{column}'] * {n})",
        "frame[frame['{column}'] > {n}]",
        "frame[frame['{column}'] >= {n}]",
        "frame.assign({column}=add(frame['{column}'], {n}))",
        "frame.assign({column}=frame['{column}'].map(lambda v: v - {n}))",
        "frame.sort_values('{column}', ascending={n} > 1)",
        "pd.concat([frame] * {n})",
        "frame.query('{column} > ' + str({n}))",
        "frame.head({n})",
        "frame.tail({n})",
    ),
)
POLARS = Dialect(
    "import polars as pl\ndef add(values, n): return values + n\ncol = pl.col",
    (
        "frame.with_columns(pl.col('{column}') + {n})",
        "frame.with_columns(pl.col('{column}') * {n})",
        "frame.filter(col('{column}') > {n})",
        "frame.filter(col('{column}') >= {n})",
        "frame.with_columns(add(col('{column}'), {n}))",
        "frame.with_columns(col('{column}').map_batches(lambda s: s - {n}))",
        "frame.sort('{column}', descending={n} > 1)",
        "pl.concat([frame] * {n})",
        "frame.filter(col('{column}') > frame.select(pl.len()).collect().item() - {n})",
        "frame.head({n})",
        "frame.tail({n})",
    ),
)
DIALECTS = {"pandas": PANDAS, "polars": POLARS}

steps = st.builds(
    Step,
    kind=st.integers(0, len(PANDAS.steps) - 1),
    column=st.sampled_from(["a", "b"]),
    number=st.integers(1, 3),
    place=st.sampled_from(["inline", "local", "global", "helper", "dataclass", "enum"]),
)
pipelines = st.builds(Pipeline, st.lists(steps, min_size=1, max_size=3).map(tuple))


@st.composite
def edits(draw: st.DrawFn) -> tuple[Pipeline, Pipeline]:
    """A pipeline before and after an edit of one of its operations."""
    before = draw(pipelines)
    index = draw(st.integers(0, len(before.steps) - 1))
    step = before.steps[index]
    fresh = draw(steps)
    field = draw(st.sampled_from(["kind", "column", "number"]))
    assume(getattr(step, field) != getattr(fresh, field))
    edited = attrs.evolve(step, **{field: getattr(fresh, field)})
    return before, Pipeline((*before.steps[:index], edited, *before.steps[index + 1 :]))


def load(source: str) -> ModuleType:
    module = ModuleType("pipeline")
    exec(compile(source, "pipeline.py", "exec", dont_inherit=True), vars(module))
    return module


def version(module: ModuleType) -> str:
    return code_version(module.task, arguments={"given": module.GIVEN}).version


def result(library: str, module: ModuleType) -> list[dict[str, Any]]:
    if library == "pandas":
        return module.task(pd.DataFrame(DATA), module.GIVEN).to_dict("records")
    return module.task(pl.LazyFrame(DATA), module.GIVEN).collect().to_dicts()


@settings(max_examples=150, deadline=None)
@given(library=st.sampled_from(sorted(DIALECTS)), edit=edits())
def test_an_edit_that_changes_the_result_changes_the_version(library: str, edit: tuple[Pipeline, Pipeline]) -> None:
    before, after = (load(DIALECTS[library].source(pipeline)) for pipeline in edit)
    changed = result(library, before) != result(library, after)
    event(f"changed: {changed}")

    if changed:
        assert version(before) != version(after)


@settings(max_examples=50, deadline=None)
@given(library=st.sampled_from(sorted(DIALECTS)), pipeline=pipelines)
def test_comments_docstrings_and_line_shifts_never_change_the_version(library: str, pipeline: Pipeline) -> None:
    source = DIALECTS[library].source(pipeline)
    edited = "# a comment\n\n" + source.replace("The task.", "What it does.").replace(
        "return frame", "\n    return frame"
    )

    assert version(load(source)) == version(load(edited))


@settings(max_examples=30, deadline=None)
@given(library=st.sampled_from(sorted(DIALECTS)), pipeline=pipelines)
def test_calling_a_task_does_not_change_its_version(library: str, pipeline: Pipeline) -> None:
    module = load(DIALECTS[library].source(pipeline))
    before = version(module)
    result(library, module)

    assert version(module) == before
