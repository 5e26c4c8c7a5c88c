"""What a code object does, as text, and which names outside of it it uses.

The text leaves out what no result depends on: line numbers, file names, docstrings, names of local variables, and the
order in which constants are kept. Nested functions are part of it.
"""

from __future__ import annotations

import dis
import itertools
from bisect import bisect_left
from typing import TYPE_CHECKING, Any

import attrs

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import CodeType

__all__ = ["ImportUse", "NameUse", "Reading", "constant_text", "read_code"]

_GLOBAL_LOADS = frozenset({"LOAD_GLOBAL", "LOAD_NAME", "LOAD_FROM_DICT_OR_GLOBALS"})
_ATTRIBUTE_LOADS = frozenset({"LOAD_ATTR", "LOAD_METHOD"})
_GLOBAL_CHANGES = frozenset({"STORE_GLOBAL", "DELETE_GLOBAL"})
#: The flags that say what kind of function it is; others note a docstring or imports from __future__.
_KINDS = 0x3FF
_NOTES = frozenset({"__doc__", "__firstlineno__"})
#: Functions and methods that resolve names in a text in the frame that calls them: ``df.query("x > @limit")``.
_LOOK_AT_FRAMES = frozenset({"query", "eval", "sql", "SQLContext", "locals", "vars", "dir"})


@attrs.frozen
class NameUse:
    """A global name that is loaded, with the attributes that are taken of it at once, as in ``helpers.clean``."""

    name: str
    attributes: tuple[str, ...]


@attrs.frozen
class ImportUse:
    """An import within a function.

    Args:
        module: What is imported, or imported from.
        level: How many packages up, as in ``from .. import helpers``.
        names: What is imported from it.
        bound: What gets a name where nothing is imported from it: the module, or without "as" its outermost package.
        attributes: What is taken of that name, wherever it is used; None if it may be used in another way.
    """

    module: str
    level: int
    names: tuple[str, ...]
    bound: str
    attributes: tuple[str, ...] | None


@attrs.frozen
class Reading:
    """What is to be known of a code object.

    Args:
        text: What it does.
        uses: The names outside of it, and the imports, in the order of their first use.
        attributes: All attributes that it takes of anything.
        constants: Its constants but for code and docstrings.
        changed_globals: The global names that it assigns.
        looks_at_frames: Whether names may be used that only stand in strings.
    """

    text: str
    uses: tuple[NameUse | ImportUse, ...]
    attributes: tuple[str, ...]
    constants: tuple[Any, ...]
    changed_globals: tuple[str, ...]
    looks_at_frames: bool


def read_code(code: CodeType) -> Reading:
    """Read a code object and those nested in it."""
    codes = list(_nested(code))
    steps = [_steps(one) for one in codes]
    names = {str(step.argval) for each in steps for step in each if step.opname in _GLOBAL_LOADS}
    attributes = {str(step.argval) for each in steps for step in each if step.opname in _ATTRIBUTE_LOADS}
    looks_at_frames = not _LOOK_AT_FRAMES.isdisjoint(names | attributes)
    uses = dict.fromkeys(use for each in steps for use in _uses(each))
    constants = [step.argval for each in steps for step in each if step.opcode in dis.hasconst]
    changed = dict.fromkeys(str(step.argval) for each in steps for step in each if step.opname in _GLOBAL_CHANGES)
    numbers = {id(one): number for number, one in enumerate(codes)}
    text = "\n".join(_text(one, each, numbers, looks_at_frames) for one, each in zip(codes, steps, strict=True))
    values = tuple(value for value in constants if not _is_code(value))
    return Reading(text, tuple(uses), tuple(sorted(attributes)), values, tuple(changed), looks_at_frames)


def _is_code(value: Any) -> bool:
    return hasattr(value, "co_code")


def _nested(code: CodeType) -> Iterable[CodeType]:
    yield code
    for constant in code.co_consts:
        if _is_code(constant):
            yield from _nested(constant)


def _steps(code: CodeType) -> list[dis.Instruction]:
    # What does nothing is only there for debuggers, and depends on how the source is laid out in lines.
    steps = [step for step in dis.get_instructions(code) if step.opname not in ("NOP", "EXTENDED_ARG", "CACHE")]
    # The body of a nested class stores its docstring and its line.
    notes = {index for index, step in enumerate(steps) if step.opname == "STORE_NAME" and step.argval in _NOTES}
    return [step for index, step in enumerate(steps) if index not in notes and index + 1 not in notes]


def _text(code: CodeType, steps: list[dis.Instruction], numbers: dict[int, int], with_locals: bool) -> str:
    arguments = code.co_argcount + code.co_kwonlyargcount
    arguments += bool(code.co_flags & 0x04) + bool(code.co_flags & 0x08)  # *args, **kwargs
    names = code.co_varnames if with_locals else code.co_varnames[:arguments]
    free = (code.co_cellvars, code.co_freevars) if with_locals else (len(code.co_cellvars), len(code.co_freevars))
    kind = code.co_flags & _KINDS
    counts = (code.co_argcount, code.co_posonlyargcount, code.co_kwonlyargcount, kind)
    places = _Places(steps)
    lines = [repr((names, free, counts))]
    lines += [f"{step.opname} {_argument(step, code, numbers, places)}" for step in steps]
    for entry in dis.Bytecode(code).exception_entries:  # type: ignore[attr-defined]  # typeshed does not know it
        span = tuple(places.of(offset) for offset in (entry.start, entry.end, entry.target))
        lines.append(repr((span, entry.depth, entry.lasti)))
    return "\n".join(lines)


class _Places:
    """Where a jump leads, counted in instructions that do something."""

    def __init__(self, steps: list[dis.Instruction]) -> None:
        self._offsets = [step.offset for step in steps]

    def of(self, offset: int) -> int:
        return bisect_left(self._offsets, offset)


def _argument(step: dis.Instruction, code: CodeType, numbers: dict[int, int], places: _Places) -> str:
    if step.opname == "KW_NAMES":  # the names of keyword arguments, in Python 3.11 and 3.12
        return repr(code.co_consts[step.arg or 0])
    if step.opcode in dis.hasconst:
        value = step.argval
        return f"code {numbers[id(value)]}" if _is_code(value) else constant_text(value)
    if step.opcode in dis.hasjrel or step.opcode in dis.hasjabs:
        return str(places.of(step.argval))
    if step.opcode in dis.haslocal or step.opcode in dis.hasfree:
        return str(step.arg)
    if step.opcode in dis.hasname:
        return str(step.argval)
    return str(step.arg)


def constant_text(value: Any) -> str:
    """Return a constant as text: 1, 1.0 and True differ, the order of a frozenset does not count."""
    if isinstance(value, tuple):
        return f"tuple({','.join(map(constant_text, value))})"
    if isinstance(value, frozenset):
        return f"frozenset({','.join(sorted(map(constant_text, value)))})"
    if type(value) is int:
        return hex(value)  # of any size
    return f"{type(value).__name__}:{value!r}"


def _uses(steps: list[dis.Instruction]) -> Iterable[NameUse | ImportUse]:
    for index, step in enumerate(steps):
        if step.opname in _GLOBAL_LOADS:
            yield NameUse(str(step.argval), _attributes(steps[index + 1 :]))
        elif step.opname == "IMPORT_NAME":
            level, names = steps[index - 2].argval, steps[index - 1].argval
            module = str(step.argval)
            bound = module if steps[index + 1].opname == "IMPORT_FROM" else module.partition(".")[0]
            taken = None if names else _taken(steps, index + 1, module.count("."))
            yield ImportUse(module, int(level), tuple(names or ()), bound, taken)


def _taken(steps: list[dis.Instruction], index: int, dots: int) -> tuple[str, ...] | None:
    """Return the attributes that are taken of a local name, beyond the dots of its module; None if it is passed on."""
    if steps[index].opname != "STORE_FAST":
        return None
    local = steps[index].argval
    found: set[str] = set()
    for place, step in enumerate(steps):
        together = isinstance(step.argval, tuple) and local in step.argval  # two locals in one instruction
        if not together and (step.opname == "STORE_FAST" or step.argval != local or step.opcode not in dis.haslocal):
            continue
        attributes = _attributes(steps[place + 1 :])
        if together or not step.opname.startswith("LOAD_FAST") or len(attributes) <= dots:
            return None
        found.update(attributes)
    return tuple(sorted(found))


def _attributes(steps: list[dis.Instruction]) -> tuple[str, ...]:
    """Return the attributes that are taken one of the other, from the first step on."""
    taken = itertools.takewhile(lambda step: step.opname in _ATTRIBUTE_LOADS, steps)
    return tuple(str(step.argval) for step in taken)
