"""AUTO_VERSION: which edits of the code change a version, and which do not."""

from __future__ import annotations

import copy
import importlib
import pickle
import subprocess
import sys
import textwrap
import types
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipedag_airflow import AUTO_VERSION, materialize
from pipedag_airflow.cache.auto_version import CodeVersion, code_version, what_changed
from pipedag_airflow.errors import AutoVersionError


def module(source: str, name: str = "shop", file: str = "shop.py") -> types.ModuleType:
    """A module of the user's own, loaded from text."""
    made = types.ModuleType(name)
    made.__file__ = file
    code = compile(textwrap.dedent(source), file, "exec", dont_inherit=True)
    exec(code, vars(made))
    return made


def version(source: str, **place: str) -> str:
    return code_version(module(source, **place).task).version


# Each edit: the source, the text in it that is replaced, and by what.

CHANGES = {
    "constant": ("def task(x): return x + 1", "1", "2"),
    "type of a constant": ("def task(x): return x * 1", "1", "1.0"),
    "sign of zero": ("def task(x): return 0.0", "0.0", "-0.0"),
    "operator": ("def task(x): return x + 1", "+", "-"),
    "comparison": ("def task(x): return x < 1", "<", "<="),
    "method": ("def task(x): return x.min()", "min", "max"),
    "keyword": ("def task(x): return x.sort(a=1)", "a=1", "b=1"),
    "order of arguments": ("def task(x, y): return x.join(y)", "x.join(y)", "y.join(x)"),
    "order of outputs": ("def task(x, y): return x, y", "return x, y", "return y, x"),
    "parameter name": ("def task(x, *, rate): return x", "rate", "price"),
    "default": ("def task(x, rate=1): return x * rate", "rate=1", "rate=2"),
    "keyword default": ("def task(x, *, rate=1): return x * rate", "rate=1", "rate=2"),
    "global constant": ("RATE = 1\ndef task(x): return x * RATE", "= 1", "= 2"),
    "list": ("NAMES = ['a', 'b']\ndef task(x): return x[NAMES]", "'a', 'b'", "'b', 'a'"),
    "order of a dict": ("D = dict(a=1, b=2)\ndef task(x): return list(D)", "a=1, b=2", "b=2, a=1"),
    "item of a set": ("S = {'a', 'b'}\ndef task(x): return x in S", "'b'", "'c'"),
    "nested value": ("D = {'a': [(1, {2: None})]}\ndef task(x): return D", "None", "0"),
    "helper": ("def half(x): return x / 2\ndef task(x): return half(x)", "/ 2", "/ 3"),
    "helper of a helper": (
        "def a(x): return 1\ndef b(x): return a(x)\ndef task(x): return b(x)",
        "return 1",
        "return 2",
    ),
    "helper passed on": ("def half(x): return x / 2\ndef task(x): return map(half, x)", "/ 2", "/ 3"),
    "helper in a dict": ("def half(x): return x / 2\nD = {'h': half}\ndef task(x): return D['h'](x)", "/ 2", "/ 3"),
    "which helper": ("def a(x): return x\ndef b(x): return x\ndef task(x): return a(x)", "return a(x)", "return b(x)"),
    "lambda": ("def task(x): return x.map(lambda v: v + 1)", "+ 1", "+ 2"),
    "global lambda": ("f = lambda v: v + 1\ndef task(x): return x.map(f)", "+ 1", "+ 2"),
    "comprehension": ("def task(x): return [v for v in x if v]", "if v", "if not v"),
    "closure value": ("def make(n):\n    return lambda x: x + n\ntask = make(1)", "make(1)", "make(2)"),
    "closure function": (
        "def half(v): return v / 2\ndef make(f):\n    return lambda x: f(x)\ntask = make(half)",
        "/ 2",
        "/ 3",
    ),
    "which closure": (
        "def make(a, b):\n    def task(x): return a - b\n    return task\ntask = make(1, 2)",
        "make(1, 2)",
        "make(2, 1)",
    ),
    "recursion": ("def f(x): return f(x - 1) if x else 0\ndef task(x): return f(x)", "else 0", "else 1"),
    "mutual recursion": (
        "def a(x): return b(x - 1)\ndef b(x): return a(x) if x else 0\ndef task(x): return a(x)",
        "else 0",
        "else 1",
    ),
    "decorator": (
        "def twice(f):\n    return lambda x: 2 * f(x)\n@twice\ndef task(x): return x",
        "2 * f(x)",
        "3 * f(x)",
    ),
    "decorated function": (
        "import functools\ndef plain(f): return functools.wraps(f)(lambda x: f(x))\n@plain\ndef task(x): return x + 1",
        "+ 1",
        "+ 2",
    ),
    "cached helper": (
        "import functools\n@functools.cache\ndef half(x): return x / 2\ndef task(x): return half(x)",
        "/ 2",
        "/ 3",
    ),
    "partial": ("import functools\nf = functools.partial(pow, 2)\ndef task(x): return f(x)", "pow, 2", "pow, 3"),
    "method of a class": ("class A:\n    def f(self): return 1\ndef task(x): return A().f()", "1", "2"),
    "base of a class": (
        "class A:\n    def f(self): return 1\nclass B(A): pass\ndef task(x): return B().f()",
        "return 1",
        "return 2",
    ),
    "class attribute": ("class A:\n    rate = 1\ndef task(x): return x * A.rate", "= 1", "= 2"),
    "property": ("class A:\n    @property\n    def f(self): return 1\ndef task(x): return A().f", "1", "2"),
    "static method": ("class A:\n    @staticmethod\n    def f(): return 1\ndef task(x): return A.f()", "1", "2"),
    "instance": (
        "class A:\n    def __init__(self, n): self.n = n\na = A(1)\ndef task(x): return a.n",
        "A(1)",
        "A(2)",
    ),
    "bound method": (
        "class A(int):\n    def f(self): return self\nf = A(1).f\ndef task(x): return f()",
        "A(1)",
        "A(2)",
    ),
    "dataclass": (
        "from dataclasses import dataclass\n@dataclass\nclass A:\n    n: int = 1\ndef task(x): return A().n",
        "= 1",
        "= 2",
    ),
    "enum": ("from enum import Enum\nclass E(Enum):\n    A = 1\ndef task(x): return E.A.value", "A = 1", "A = 2"),
    "frame": ("import pandas as pd\nF = pd.DataFrame({'a': [1]})\ndef task(x): return F", "[1]", "[2]"),
    "polars frame": ("import polars as pl\nF = pl.DataFrame({'a': [1]})\ndef task(x): return F", "[1]", "[2]"),
    "polars expression": ("import polars as pl\nE = pl.col('a') + 1\ndef task(x): return x.select(E)", "+ 1", "+ 2"),
    "numpy array": ("import numpy as np\nA = np.array([1])\ndef task(x): return A", "[1]", "[2]"),
    "pattern": ("import re\nP = re.compile('a')\ndef task(x): return P.match(x)", "'a'", "'b'"),
    "function of a library": ("import math\ndef task(x): return math.floor(x)", "floor", "ceil"),
    "imported function of a library": ("from math import floor as f\ndef task(x): return f(x)", "floor", "ceil"),
    "name in a query": ("LIMIT = 1\ndef task(x): return x.query('v > @LIMIT')", "= 1", "= 2"),
    "name in a query elsewhere": ("LIMIT = 1\nQ = 'v > @LIMIT'\ndef task(x): return x.query(Q)", "= 1", "= 2"),
    "local name in a query": (
        "def task(x):\n    a = 1; b = 2\n    return x.query('v > @a')",
        "a = 1; b = 2",
        "b = 1; a = 2",
    ),
    "what an except covers": (
        "def task(x):\n    x.a()\n    try:\n        x.b()\n    except ValueError:\n        return 0",
        "x.a()\n    try:\n        x.b()",
        "try:\n        x.a()\n        x.b()",
    ),
    "a finally": (
        "def task(x):\n    try:\n        return x.a()\n    finally:\n        x.b()",
        "x.b()",
        "x.c()",
    ),
    "attribute of a function": ("def half(x): return half.n\nhalf.n = 1\ndef task(x): return half(x)", "= 1", "= 2"),
    "default of a local function": ("def task(x):\n    def f(n=1): return n\n    return f()", "n=1", "n=2"),
    "local class": ("def task(x):\n    class A:\n        n = 1\n    return A.n", "n = 1", "n = 2"),
}

NO_CHANGES = {
    "comment": ("def task(x):\n    return x + 1", "x + 1", "x + 1  # more"),
    "docstring": ("def task(x):\n    'one'\n    return x + 1", "'one'", "'two'"),
    "docstring gone": ("def task(x):\n    'one'\n    return None", "    'one'\n", ""),
    "docstring of a helper": ("def f():\n    'one'\ndef task(x): return f()", "'one'", "'two'"),
    "docstring of a class": ("class A:\n    'one'\ndef task(x): return A()", "'one'", "'two'"),
    "docstring of a local class": ("def task(x):\n    class A:\n        'one'\n    return A", "'one'", "'two'"),
    "line shift": ("def task(x):\n    return x + 1", "def", "\n\n\nimport os\n\ndef"),
    "line shift of a local class": ("def task(x):\n    class A: pass\n    return A", "    class", "\n\n    class"),
    "layout": ("def task(x):\n    return x.a(1, 2).b()", "x.a(1, 2).b()", "(\n x.a(\n 1,\n 2,\n )\n .b()\n )"),
    "blank lines": ("def task(x):\n    y = x + 1\n    return y", "\n    return", "\n\n\n    return"),
    "parentheses": ("def task(x): return x + 1", "x + 1", "(x + 1)"),
    "notation": ("def task(x): return x * 1000 + 'a'", "1000 + 'a'", '1_000 + "a"'),
    "annotation": ("def task(x): return x", "(x)", "(x: int) -> int"),
    "import from __future__": ("\ndef task(x): return x", "\ndef", "from __future__ import annotations\ndef"),
    "pass": ("def task(x):\n    y = x\n    return y", "y = x\n", "y = x\n    pass\n"),
    "name of a local variable": ("def task(x):\n    y = x\n    return y", "y = x\n    return y", "z = x\n    return z"),
    "unused function": ("def f(): return 1\ndef task(x): return x", "return 1", "return 2"),
    "unused global": ("RATE = 1\ndef task(x): return x", "= 1", "= 2"),
    "order of definitions": (
        "def f(): return 1\ndef g(): return 2\ndef task(x): return f(), g()",
        "def f(): return 1\ndef g(): return 2",
        "def g(): return 2\ndef f(): return 1",
    ),
    "order of a set": ("S = {'a', 'b'}\ndef task(x): return x in S", "'a', 'b'", "'b', 'a'"),
    "where a value comes from": ("RATE = 2\ndef task(x): return x * RATE", "RATE = 2", "RATE = 1 + 1"),
    "log": ("import logging\nlog = logging.getLogger('a')\ndef task(x): log.info(x)", "'a'", "'b'"),
}


def edited(source: str, old: str, new: str) -> str:
    assert old in source
    return source.replace(old, new)


@pytest.mark.parametrize(("source", "old", "new"), CHANGES.values(), ids=CHANGES.keys())
def test_an_edit_that_changes_what_a_task_does_changes_its_version(source: str, old: str, new: str) -> None:
    assert version(source) != version(edited(source, old, new))


@pytest.mark.parametrize(("source", "old", "new"), NO_CHANGES.values(), ids=NO_CHANGES.keys())
def test_an_edit_that_changes_nothing_keeps_the_version(source: str, old: str, new: str) -> None:
    assert version(source) == version(edited(source, old, new))


@pytest.mark.parametrize("source", [change[0] for change in CHANGES.values()], ids=CHANGES.keys())
def test_a_version_is_the_same_under_another_module_name_and_file(source: str) -> None:
    assert version(source) == version(source, name="unusual_prefix_0a1b_shop", file="/elsewhere/dags/shop.py")


def test_a_version_is_the_same_in_every_process(tmp_path: Path) -> None:
    sources = [change[0] for change in CHANGES.values()]
    path = str(Path(__file__).parent)
    code = (
        f"import sys; sys.path.insert(0, {path!r}); from test_auto_version_source import CHANGES, version\n"
        "for change in CHANGES.values(): print(version(change[0]))"
    )
    printed = [
        subprocess.run(
            [sys.executable, "-c", code], env={"PYTHONHASHSEED": seed, "PYTHONPATH": ":".join(sys.path)},
            cwd=tmp_path, check=True, capture_output=True, text=True,
        ).stdout.split()
        for seed in ("1", "2")
    ]  # fmt: skip

    assert printed[0] == printed[1] == [version(source) for source in sources]


EXTENSIONS = {
    "polars namespace": (
        "import polars as pl\n@pl.api.register_expr_namespace('shop_one')\nclass Shop:\n"
        "    def __init__(self, e): self.e = e\n    def tax(self): return self.e * 2\n"
        "def task(x): return x.select(pl.col('a').shop_one.tax())"
    ),
    "pandas accessor": (
        "import pandas as pd\n@pd.api.extensions.register_dataframe_accessor('shop_two')\nclass Shop:\n"
        "    def __init__(self, e): self.e = e\n    def tax(self): return self.e * 2\n"
        "def task(x): return x.shop_two.tax()"
    ),
    "added method": (
        "import pandas as pd\ndef tax(x): return x * 2\npd.DataFrame.shop_3 = tax\ndef task(x): return x.shop_3()"
    ),
}


@pytest.mark.filterwarnings("ignore:Overriding existing custom namespace", "ignore:registration of accessor")
@pytest.mark.parametrize("source", EXTENSIONS.values(), ids=EXTENSIONS.keys())
def test_what_a_user_adds_to_frames_is_followed(source: str) -> None:
    before = version(source)

    assert version(source) == before
    assert version(source.replace("* 2", "* 3")) != before


HELPERS = "RATE = 1\ndef half(x): return x / 2\ndef other(x): return x\n"


@pytest.mark.parametrize(
    "task",
    [
        "import helpers\ndef task(x): return helpers.half(x) * helpers.RATE",
        "import helpers as h\ndef task(x): return [h.half(v) * h.RATE for v in x]",
        "from helpers import half, RATE\ndef task(x): return half(x) * RATE",
        "def task(x):\n    from helpers import half, RATE\n    return half(x) * RATE",
        "import package.helpers\ndef task(x): return package.helpers.half(x) * package.helpers.RATE",
        "from package import helpers\ndef task(x): return helpers.half(x) * helpers.RATE",
    ],
)
def test_edits_of_an_imported_module_count_if_the_task_uses_what_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, task: str
) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def with_helpers(text: str) -> str:
        for name in ("helpers", "package", "package.helpers"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        (tmp_path / "package").mkdir(exist_ok=True)
        (tmp_path / "package" / "__init__.py").write_text("")
        (tmp_path / "helpers.py").write_text(text)
        (tmp_path / "package" / "helpers.py").write_text(text)
        importlib.invalidate_caches()
        return version(task)

    before = with_helpers(HELPERS)

    assert with_helpers(HELPERS.replace("x / 2", "x / 3")) != before
    assert with_helpers(HELPERS.replace("RATE = 1", "RATE = 2")) != before
    assert with_helpers("import os\n" + HELPERS.replace("return x\n", "return -x\n")) == before


# Edits of the classes of arguments: the function itself calls a method of whatever it is given.

CONFIG = """
import enum
from dataclasses import dataclass, field

class Scaling:
    def scale(self, x): return x * 2

@dataclass
class Rule:
    rate: int = 1
    def apply(self, x): return x + self.rate

@dataclass
class Config(Scaling):
    rules: list = field(default_factory=list)
    def apply(self, x): return shift(self.scale(x))

class Mode(enum.Enum):
    FAST = 1
    SLOW = 2
    def apply(self, x): return x - self.value

def shift(x): return x / 3
def task(x, given): return given.apply(x)
"""


@pytest.mark.parametrize(
    ("given", "old", "new", "part"),
    [
        ("Config()", "shift(self.scale(x))", "self.scale(x)", "function Config.apply"),
        ("Config()", "x * 2", "x * 3", "function Scaling.scale"),
        ("Config()", "x / 3", "x / 4", "function shift"),
        ("Mode.FAST", "FAST = 1", "FAST = 3", "class Mode"),
        ("Mode.FAST", "x - self.value", "x + self.value", "function Mode.apply"),
        ("Config([Rule()])", "x + self.rate", "x * self.rate", "function Rule.apply"),
        ("Config([Mode.SLOW])", "SLOW = 2", "SLOW = 4", "class Mode"),
        ("[(Rule(),)]", "x + self.rate", "x * self.rate", "function Rule.apply"),
        ("{'a': Mode.FAST}", "FAST = 1", "FAST = 3", "class Mode"),
        ("{Mode.FAST: 'a'}", "FAST = 1", "FAST = 3", "class Mode"),
    ],
)
def test_an_edit_of_the_class_of_an_argument_changes_the_version(given: str, old: str, new: str, part: str) -> None:
    def version_of(source: str) -> CodeVersion:
        made = module(f"{source}\nGIVEN = {given}")
        return code_version(made.task, arguments={"x": 1, "given": made.GIVEN})

    before, after = version_of(CONFIG), version_of(CONFIG.replace(old, new))
    assert before.version != after.version
    assert part in what_changed(before.parts, after.parts)
    assert version_of(CONFIG).version == before.version


def test_an_edit_of_a_class_that_is_not_given_keeps_the_version() -> None:
    def version_of(source: str) -> str:
        made = module(source)
        return code_version(made.task, arguments={"x": 1, "given": made.Rule()}).version

    assert version_of(CONFIG) == version_of(CONFIG.replace("FAST = 1", "FAST = 3"))


def test_pickling_an_instance_of_a_class_keeps_the_version(monkeypatch: pytest.MonkeyPatch) -> None:
    made = module(CONFIG)
    monkeypatch.setitem(sys.modules, "shop", made)
    arguments = {"x": 1, "given": made.Rule()}
    before = code_version(made.task, arguments=arguments).version
    copy.copy(made.Rule())
    pickle.dumps(made.Rule())

    assert code_version(made.task, arguments=arguments).version == before


def test_the_body_of_a_task_in_an_installed_package_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "site-packages"
    (folder / "acme").mkdir(parents=True)
    monkeypatch.syspath_prepend(folder)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    texts = {
        "__init__": "",
        "helpers": HELPERS,
        "flow": """
            from acme.helpers import half
            from pipedag_airflow import materialize
            @materialize
            def task(x): return half(x) + 1
            @materialize
            def other(x): return x
            """,
    }

    def installed(old: str = "", new: str = "") -> str:
        for name, text in texts.items():
            monkeypatch.delitem(sys.modules, f"acme.{name}", raising=False)
            (folder / "acme" / f"{name}.py").write_text(textwrap.dedent(text).replace(old, new))
        monkeypatch.delitem(sys.modules, "acme", raising=False)
        importlib.invalidate_caches()
        return code_version(importlib.import_module("acme.flow").task.fn).version

    before = installed()
    assert installed() == before
    assert installed("half(x) + 1", "half(x) + 2") != before
    assert installed("x / 2", "x / 3") != before
    assert installed("def other(x): return x", "def other(x): return -x") == before


def test_packages_of_others_in_the_namespace_of_a_task_are_installed_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "site-packages" / "corp"
    flow = """
        from corp.flows.helpers import half
        from corp.lib import f
        from pipedag_airflow import materialize
        @materialize
        def task(x): return f(half(x))
        """
    files = {
        "flows/__init__.py": "",
        "flows/helpers.py": HELPERS,
        "flows/daily.py": flow,
        "lib/__init__.py": "import threading\nlock = threading.Lock()\ndef f(x):\n    with lock: return x",
    }
    monkeypatch.syspath_prepend(folder.parent)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)

    def installed(old: str = "", new: str = "") -> str:
        for name, text in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(textwrap.dedent(text).replace(old, new))
        for name in [name for name in sys.modules if name.partition(".")[0] == "corp"]:
            monkeypatch.delitem(sys.modules, name)
        importlib.invalidate_caches()
        return code_version(importlib.import_module("corp.flows.daily").task.fn).version

    before = installed()
    assert installed() == before
    assert installed("x / 2", "x / 3") != before


@pytest.mark.parametrize("first", ["site-packages", "src"])
def test_what_is_the_users_own_in_a_namespace_that_is_installed_too_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, first: str
) -> None:
    for place, name in (("site-packages", "lib"), ("src", "helpers")):
        (tmp_path / place / "corpns").mkdir(parents=True)
        (tmp_path / place / "corpns" / f"{name}.py").write_text(HELPERS)
    for place in sorted(("site-packages", "src"), key=lambda place: place == first):
        monkeypatch.syspath_prepend(tmp_path / place)
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    source = "import corpns.helpers, corpns.lib\ndef task(x): return corpns.lib.half(corpns.helpers.half(x))"

    def edited(place: str, name: str) -> str:
        (tmp_path / place / "corpns" / f"{name}.py").write_text(HELPERS.replace("x / 2", "x / 3"))
        for loaded in [loaded for loaded in sys.modules if loaded.partition(".")[0] == "corpns"]:
            monkeypatch.delitem(sys.modules, loaded)
        importlib.invalidate_caches()
        return version(source)

    before = version(source)
    assert edited("site-packages", "lib") == before
    assert edited("src", "helpers") != before


def test_a_function_of_a_library_that_is_a_task_counts_by_the_version_of_the_library() -> None:
    assert code_version(pd.concat).parts == {}


@pytest.mark.parametrize(
    "source",
    [
        "import sys\ndef task(net):\n    print(sys.version_info)\n    return net.modules()",
        "import importlib.resources\ndef task(it):\n    it.reload()\n    return importlib.resources.files('json')",
        "import sys\ndef task(net):\n    def inner(): return sys.maxsize\n    return [inner(), net.modules]",
        "def task(net):\n    import sys\n    print(sys.version_info)\n    return net.modules()",
        "def task(it):\n    import importlib.resources\n    it.reload()\n    return importlib.resources.files('json')",
        "def task(it):\n    import importlib.resources as r\n    it.reload()\n    return r.files('json')",
    ],
)
def test_an_attribute_of_another_object_is_not_taken_for_one_of_a_module(source: str) -> None:
    assert version(source) == version(source)


@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("import sys\nf = sys.__stdin__\ndef task(x): return f.read()", "uses f"),
        ("g = (i for i in [1])\ndef task(x): return list(g)", "uses g"),
        ("import threading\nlock = threading.Lock()\ndef task(x):\n    with lock: return x", "uses lock"),
        ("def task(x): return eval('x + y')", "uses eval"),
        ("import importlib\ndef task(x): return importlib.import_module('h').f(x)", "uses importlib.import_module"),
        ("from importlib import import_module\ndef task(x): return import_module('h').f(x)", "uses import_module"),
        ("import importlib as i\ndef task(x):\n    m = i\n    return m.import_module('h')", "importlib.import_module"),
        ("def task(x):\n    import importlib\n    return importlib.import_module('h')", "importlib.import_module"),
        ("def task(x):\n    from importlib import import_module as i\n    return i('h')", "importlib.import_module"),
        ("import importlib\nload = [importlib.import_module]\ndef task(x): return load[0]('h')", "uses load"),
        ("import sys\ndef task(x): return sys.modules['helpers'].half(x)", "uses sys.modules"),
        ("from sys import modules\ndef task(x): return modules['helpers'].half(x)", "uses modules"),
        ("def task(x):\n    import sys as s\n    return s.modules['helpers'].half(x)", "uses sys.modules"),
        ("def task(x):\n    import sys\n    s = sys\n    return s.modules['helpers'].half(x)", "uses sys.modules"),
        ("def task(x):\n    import importlib.util\n    return importlib.import_module('h')", "importlib.import_module"),
        (
            "def task(x):\n    from importlib import util\n    return util.module_from_spec(x)",
            "uses importlib.util.module_from_spec",
        ),
        (
            "def task(x):\n    import importlib.util\n    u = importlib.util\n    return u.module_from_spec(x)",
            "module_from_spec, which finds code by a text",
        ),
        ("import sys\ndef task(x):\n    s = sys\n    return s.modules['helpers'].half(x)", "uses sys.modules"),
        (
            "import importlib.util\ndef task(x):\n    u = importlib.util\n    return u.module_from_spec(x)",
            "uses importlib.util.module_from_spec",
        ),
        (
            "import importlib.util as u\ndef task(x): return u.module_from_spec(x)",
            "uses importlib.util.module_from_spec",
        ),
        ("import runpy\ndef task(x): return runpy.run_path('helpers.py')['half'](x)", "uses runpy.run_path"),
        ("import pydoc\ndef task(x): return pydoc.locate('helpers.half')(x)", "uses pydoc.locate"),
        ("import builtins\ndef task(x): return builtins.eval('x + y')", "uses builtins.eval"),
        ("n = 0\ndef task(x):\n    global n\n    n += 1", "uses n"),
        ("import helpers\ndef task(x): return getattr(helpers, 'half')(x)", "uses helpers"),
        ("def task(x):\n    import helpers\n    return helpers.half(x)", "uses helpers"),
        ("import numpy as np\nu = np.frompyfunc(lambda v: v, 1, 1)\ndef task(x): return u(x)", "uses u"),
        (
            "import sys\ndef make(f):\n    return lambda x: f.read()\ntask = make(sys.__stdin__)",
            "uses f of its closure",
        ),
        ("import sys\ndef task(x, f=sys.__stdin__): return f.read()", "uses a default or attribute of it"),
        (
            "lock = __import__('threading').Lock()\ndef f(): return lock\ndef task(x): return f()",
            "function f in module",
        ),
    ],
)
def test_what_cannot_be_followed_is_an_error_that_names_it(
    monkeypatch: pytest.MonkeyPatch, source: str, named: str
) -> None:
    monkeypatch.setitem(sys.modules, "helpers", module(HELPERS, "helpers"))

    with pytest.raises(AutoVersionError) as error:
        code_version(module(source).task, where="Task 'clean.task'")

    assert "Task 'clean.task'" in str(error.value)
    assert named in str(error.value)
    assert 'version="1"' in str(error.value)


def test_the_input_type_brings_the_version_of_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    task = module("def task(x): return x").task

    assert code_version(task, pd.DataFrame).version != code_version(task).version


def test_what_changed_names_the_parts() -> None:
    source = "RATE = 1\nKEEP = 1\ndef half(x): return x / 2\ndef task(x): return half(x) * RATE * KEEP"
    before = code_version(module(source).task).parts
    after = code_version(module(source.replace("RATE = 1", "RATE = 2").replace("/ 2", "/ 3")).task).parts

    assert what_changed(before, after) == "the code of the task changed: function half in module shop, global RATE"


def test_the_constant_is_one_object_with_its_own_name() -> None:
    assert repr(AUTO_VERSION) == "AUTO_VERSION"
    assert pickle.loads(pickle.dumps(AUTO_VERSION)) is AUTO_VERSION
    assert copy.deepcopy(AUTO_VERSION) is AUTO_VERSION


@pytest.mark.parametrize(
    ("arguments", "named"), [({}, "input_type"), ({"input_type": pd.DataFrame, "lazy": True}, "lazy=True")]
)
def test_a_task_that_cannot_have_auto_version_is_refused(arguments: dict[str, Any], named: str) -> None:
    with pytest.raises(ValueError, match=f"'task' has AUTO_VERSION.*{named}"):
        materialize(version=AUTO_VERSION, **arguments)(module("def task(x): return x").task)
