"""Work is checked blind: states, limits, and nothing of the tests where the learner's code could see it.

Real kernels; each check starts one.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

import anyio
import anyio.to_thread
import psutil
import pytest

from learners import PATIENT, code, handed_in, notebook, squares, write
from mcp_server_jupyter.ports import Kernel, Message
from mcp_server_jupyter.services import Services, open_services
from mcp_server_jupyter.settings import Settings
from mcp_server_jupyter.tutor.blind.fresh import Limits
from mcp_server_jupyter.tutor.formats import load_template
from mcp_server_jupyter.tutor.template import Task
from support import eventually

Make = Callable[..., Task]
SECRET = "8317"


@pytest.fixture(scope="module")
async def services(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Services]:
    folder = tmp_path_factory.mktemp("learner")
    (folder / "root").mkdir()
    # Forked: two dozen kernels take ten seconds less.
    options = {"root": folder / "root", "state_dir": folder / "state", "fork_kernels": True}
    settings = Settings.load(options, environ={})
    async with open_services(settings) as services:
        yield services


@pytest.fixture
def task(tmp_path: Path) -> Make:
    def make(*tests: str, solution: str = "pass", setup: str = "pass") -> Task:
        checks = [code(test, "task:t", "hidden-test", label=f"check {at}") for at, test in enumerate(tests)]
        made = notebook(code(setup, "setup"), code(solution, "task:t", "solution"), *checks)
        return load_template(write(tmp_path / "t.ipynb", made)).tasks["t"]

    return make


def living(services: Services) -> int:
    return len([kernel for kernel in services.kernels._kernels.values() if kernel.death is None])  # type: ignore[attr-defined]


async def test_values_of_every_kind_are_compared_and_objects_are_used_where_they_are(
    services: Services, task: Make
) -> None:
    solution = """
import numpy as np, pandas as pd, collections
def scalars(): return [1, -2.5, float("inf"), 1 + 2j, 2 ** 80, "ü", b"b", None, True]
def containers(): return {"a": (1, {2}, frozenset({3})), 4: [[]], (5, 6): collections.Counter("aab")}
def array(): return np.arange(6, dtype="int16").reshape(2, 3)
def scalar(): return np.float32(0.5)
def objects(): return np.array([1, "x", None], dtype=object)
def frame():
    times = pd.to_datetime(["2026-01-02", None])
    return pd.DataFrame({"a": [1.5, None], "b": ["x", None], "t": times}, index=[3, 4])
def series(): return pd.Series([1, 2], name="s", dtype="int8")
def count():
    n = 0
    while True:
        yield n
        n += 1
def sort(values, reverse=False): values.sort(reverse=reverse)
def fails(x):
    if x < 0: raise ValueError("negative")
    return {}[x]
class Own(Exception): pass
def own(): raise Own("mine")
class Account:
    def __init__(self, money): self.money = money
    def put(self, more):
        self.money += more
        return self
    def __len__(self): return 3
    def __getitem__(self, at): return at * 2
    def __str__(self): return "Account"
    def __bool__(self): return False
    def __float__(self): return 2.5
    def __array__(self, dtype=None, copy=None): return np.array([1, 2])
def sum(values): return "theirs"
"""
    made = task(
        "assert scalars() == [1, -2.5, float('inf'), 1 + 2j, 2 ** 80, 'ü', b'b', None, True]",
        "assert containers() == {'a': (1, {2}, frozenset({3})), 4: [[]], (5, 6): {'a': 2, 'b': 1}}",
        "assert array().dtype == 'int16'\nnp.testing.assert_array_equal(array(), [[0, 1, 2], [3, 4, 5]])\n"
        "assert scalar() == 0.5 and scalar().dtype == 'float32'\nassert list(objects()) == [1, 'x', None]",
        "times = pd.to_datetime(['2026-01-02', None])\n"
        "wanted = pd.DataFrame({'a': [1.5, None], 'b': ['x', None], 't': times}, index=[3, 4])\n"
        "pd.testing.assert_frame_equal(frame(), wanted)",
        "pd.testing.assert_series_equal(series(), pd.Series([1, 2], name='s', dtype='int8'))",
        "import itertools\nassert list(itertools.islice(count(), 40)) == list(range(40))\nassert next(count()) == 0",
        "given = [1, 3, 2]\nassert sort(given, reverse=True) is None\nassert given == [3, 2, 1]",
        "try:\n    fails(-1)\nexcept ValueError as error:\n    assert 'negative' in str(error)\nelse:\n    assert 0",
        "try:\n    fails(1)\nexcept KeyError:\n    pass",
        "try:\n    own()\nexcept Exception as error:\n    assert str(error) == 'mine'",
        "a = Account(1)\nassert a.put(5) is a and a.money == 6 and isinstance(a, Account) and not a",
        "a = Account(1)\nassert len(a) == 3 and a[4] == 8 and str(a) == 'Account' and float(a) == 2.5",
        "assert list(np.array(Account(1))) == [1, 2]",
        "assert sum([1]) == 'theirs' and len([1]) == 1",
        solution=solution,
        setup="import numpy as np\nimport pandas as pd",
    )
    result = await handed_in(services, made, solution)
    assert [(check.label, check.detail) for check in result.checks if check.state != "passed"] == []
    assert (result.state, result.points, result.max_points) == ("passed", 14, 14)


WITHOUT = """
kept = helper
del helper
try:
    uses(3)
except NameError:
    pass
else:
    raise AssertionError("It does not use helper.")
finally:
    helper = kept
"""


async def test_a_name_that_a_test_deletes_is_gone_in_the_kernel_until_it_is_put_back(
    services: Services, task: Make
) -> None:
    made = task(WITHOUT, "assert uses(3) == 9", "try:\n    del nothing\nexcept NameError: pass")
    own = "def helper(x): return x * x"
    result = await handed_in(services, made, own, "def uses(x): return helper(x)")
    assert [check.state for check in result.checks] == ["passed"] * 3, result
    result = await handed_in(services, made, own, "def uses(x): return x * x")
    assert [(check.state, check.message) for check in result.checks][:2] == [
        ("failed", "It does not use helper."),
        ("passed", ""),
    ]


async def test_a_wrong_answer_fails_with_the_instructors_message_and_no_value(services: Services, task: Make) -> None:
    made = task(
        f"assert f() == {SECRET}, 'Read the text again.'",
        f"np.testing.assert_equal(f(), {SECRET})",
        f"assert f().startswith('{SECRET}')",
        "assert f() == 1",
        setup="import numpy as np",
    )
    result = await handed_in(services, made, "def f(): return 1")
    assert [check.state for check in result.checks] == ["failed", "failed", "failed", "passed"]
    assert (result.state, result.points, result.max_points) == ("failed", 1, 4)
    told = result.told()
    assert [check.get("message") for check in told["checks"]] == ["Read the text again.", None, None, None]
    assert SECRET not in json.dumps(told)


async def test_what_the_learners_code_raises_is_told_with_its_own_frames(services: Services, task: Make) -> None:
    result = await handed_in(services, task(f"assert f({SECRET[0]}) == {SECRET}"), "def f(x):\n    return 1 / 0")
    (check,) = result.told()["checks"]
    assert (result.state, check["state"]) == ("error", "error")
    assert check["error"] == {
        "name": "ZeroDivisionError",
        "text": "division by zero",
        "where": ["line 2, in f: return 1 / 0"],
    }


async def test_a_cell_that_raises_is_told_and_the_rest_is_still_checked(services: Services, task: Make) -> None:
    made = task("assert f() == 1", "assert g() == 2")
    result = await handed_in(services, made, "def f(): return 1\nx = undefined", "def g(): return 2")
    assert (result.state, result.points) == ("error", 2)
    assert result.error == {
        "name": "NameError",
        "text": "name 'undefined' is not defined",
        "where": ["line 2, in <module>: x = undefined"],
    }


@pytest.mark.parametrize("source", ["import not_there_at_all", "def f():\n    from not_there_at_all import x"])
async def test_a_missing_module_is_told_as_that(services: Services, task: Make, source: str) -> None:
    result = await handed_in(services, task("f()"), source)
    assert result.state == "import_error"
    assert "not_there_at_all" in json.dumps(result.told())


@pytest.mark.parametrize("source", ["import os\nos._exit(1)", "import os\ndef f(): os._exit(1)"])
async def test_a_kernel_that_ends_is_told_and_the_next_check_passes(
    services: Services, task: Make, source: str
) -> None:
    made = task("assert f() == 1", "assert f() == 1")
    result = await handed_in(services, made, source)
    assert (result.state, [check.state for check in result.checks]) == ("kernel_died", ["kernel_died"] * 2)
    assert (await handed_in(services, made, "def f(): return 1")).state == "passed"


class FirstOnly:
    """Limits whose first check has a second, and each later one a minute."""

    task_seconds, output_bytes, interrupt_seconds = 300.0, 2**20, 60.0

    def __init__(self) -> None:
        self._asked = 0

    @property
    def check_seconds(self) -> float:
        self._asked += 1
        return 1.0 if self._asked == 1 else 60.0


@pytest.mark.parametrize("test", ["assert f() == 1", "for each in forever(): pass", "while True: pass"])
async def test_a_check_without_end_costs_that_check_only(services: Services, task: Make, test: str) -> None:
    made = task(test, "assert g() == 1")
    source = "def f():\n    while True: pass\ndef g(): return 1\ndef forever():\n    while True: yield 1"
    result = await handed_in(services, made, source, limits=cast(Limits, FirstOnly()))
    assert (result.state, [check.state for check in result.checks]) == ("timeout", ["timeout", "passed"])


@pytest.mark.parametrize(
    "source",
    [
        "while True: pass",
        "while True:\n    try:\n        while True: pass\n    except BaseException: pass",
        "import signal\nsignal.signal(signal.SIGINT, signal.SIG_IGN)\nwhile True: pass",
    ],
)
async def test_a_cell_without_end_is_timeout_and_its_kernel_is_gone(
    services: Services, task: Make, source: str
) -> None:
    limits = Limits(check_seconds=1, task_seconds=2, interrupt_seconds=0.5)
    result = await handed_in(services, task("assert f() == 1"), source, limits=limits)
    assert (result.state, [check.state for check in result.checks]) == ("timeout", ["timeout"])
    assert living(services) == 0


async def test_output_over_its_limit_is_an_error(services: Services, task: Make) -> None:
    limits = Limits(check_seconds=60, task_seconds=120, output_bytes=50_000, interrupt_seconds=60)
    result = await handed_in(services, task("assert f() == 1"), "while True: print('x' * 1000)", limits=limits)
    assert result.state == "error"
    assert result.error is not None
    assert result.error["name"] == "OutputTooLong"


async def test_input_raises(services: Services, task: Make) -> None:
    result = await handed_in(services, task("assert f() == 1"), "def f(): return input()")
    (check,) = result.checks
    assert check.error is not None
    assert check.error["name"] in ("EOFError", "StdinNotImplementedError")


async def test_a_value_that_takes_more_memory_than_a_test_has_fails(services: Services, task: Make) -> None:
    made = task("len(b'x' * (300 * f()))", "assert f() == 2 ** 20")
    result = await handed_in(services, made, "def f(): return 2 ** 20")
    assert [check.state for check in result.checks] == ["failed", "passed"]


# --------------------------------------------------------------------------- attacks


LOOKING = """
import gc, sys
seen = []
def look():
    frame = sys._getframe()
    while frame is not None:
        seen.append(repr(frame.f_locals) + repr(frame.f_code.co_consts))
        frame = frame.f_back
def f(x):
    look()
    return x
class Spy:
    def __getattr__(self, name):
        look()
        return 1
spy = Spy()
def has_seen(characters):
    held = []
    for each in gc.get_objects():
        if type(each) in (list, tuple, dict):
            values = each.values() if type(each) is dict else each
            held += [str(one) for one in values if type(one) in (int, str, bytes)]
    return "".join(map(chr, characters)) in "\\n".join(seen + held)
"""


async def test_the_learners_code_sees_arguments_and_no_constant_of_a_test_in_any_frame_or_object(
    services: Services, task: Make
) -> None:
    made = task(
        f"assert f(5) != {SECRET}, 'hint {SECRET}'\nassert spy.a != {SECRET}\nassert f('given') + '{SECRET}'",
        f"assert has_seen([ord(each) for each in 'given'])\nassert not has_seen([ord(each) for each in '{SECRET}'])",
    )
    result = await handed_in(services, made, LOOKING)
    assert [(check.state, check.detail) for check in result.checks] == [("passed", "")] * 2


LIARS = """
class Equal:
    __eq__ = __ge__ = __lt__ = lambda *_: True
    __ne__ = lambda *_: False
    __hash__ = lambda _: 1
    __sub__ = __rsub__ = __abs__ = lambda self, *_: self
class Number(int):
    __eq__ = lambda *_: True
    __hash__ = int.__hash__
class Disguised:
    __class__ = property(lambda _: int)
    __eq__ = lambda *_: True
class Address:
    __array_interface__ = {"version": 3, "typestr": "<i8", "shape": (1,), "data": (0, True)}
    __array_priority__ = 1e9
    __array_ufunc__ = lambda *_, **__: True
lies = [Equal(), Number(1), Disguised(), Address()]
import numpy
numpy.isclose = numpy.allclose = numpy.array_equal = lambda *_, **__: True
"""
EQUAL = f"""
for lie in range(4):
    for same in (
        lambda value: value == {SECRET},
        lambda value: {SECRET} == value,
        lambda value: value in ({SECRET},),
        lambda value: abs(value - {SECRET}) < 1e-6,
        lambda value: value >= {SECRET},
        lambda value: np.allclose(value, {SECRET}),
        lambda value: np.array_equal(value, [{SECRET}]),
        lambda value: (np.array([{SECRET}]) == value).all(),
    ):
        try:
            equal = bool(same(lies[lie]))
        except (TypeError, ValueError):
            equal = False
        assert not equal, "a lie was believed"
"""


async def test_no_object_that_lies_about_equality_is_believed(services: Services, task: Make) -> None:
    result = await handed_in(services, task(EQUAL, setup="import numpy as np"), LIARS)
    assert [(check.state, check.detail) for check in result.checks] == [("passed", "")]


@pytest.mark.parametrize(
    "source",
    [
        "import builtins\nbuiltins.id = builtins.sum = lambda *_: 1",
        'import json\njson.dumps = lambda *_, **__: \'{"value": {"t": "int", "v": "zz"}}\'',
        "import json\njson.dumps = lambda *_, **__: '[' * 100000",
        "import json\njson.dumps = lambda *_, **__: '{\"raised\": 5}'",
        "_mcp_tutor.answer = lambda _: 5",
        "del _mcp_tutor",
    ],
)
async def test_no_forged_answer_passes_a_check(services: Services, task: Make, source: str) -> None:
    made = task(f"assert f() == {SECRET}", f"assert not f() < {SECRET}")
    result = await handed_in(services, made, source + "\ndef f(): return object()")
    assert {check.state for check in result.checks} <= {"failed", "error"}
    assert (result.points, SECRET in json.dumps(result.told())) == (0, False)


async def test_names_that_a_learner_took_by_accident_change_no_check(services: Services, task: Make) -> None:
    source = "list = str = isinstance = __import__ = globals = open = json = None\ndef f(): return [1]"
    assert (await handed_in(services, task("assert f() == [1]"), source)).state == "passed"


async def test_a_spy_on_the_kernels_messages_sees_no_test(
    services: Services, task: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever crosses to or from the kernel, as a replaced kernelspec or a listener on iopub would have it."""
    crossed: list[str] = []
    start = services.kernels.start

    async def spied(*args: Any, **named: Any) -> Kernel:
        kernel = await start(*args, **named)
        request = kernel.request

        def seen(kind: str, content: Any, **more: Any) -> Any:
            crossed.append(repr(content))
            return _Heard(request(kind, content, **more), crossed)

        kernel.request = seen  # type: ignore[method-assign]
        return kernel

    monkeypatch.setattr(services.kernels, "start", spied)
    made = task(f"# {SECRET}\nassert f(31) == {SECRET}, 'hint {SECRET}'", f"assert f('a') in ['{SECRET}']")
    result = await handed_in(services, made, "def f(x): return x")
    assert result.state == "failed"
    decoded = "".join(crossed) + "".join(_decoded(crossed))
    assert "31" in decoded
    assert SECRET not in decoded
    assert not [each for each in crossed if "execute_input" in each and "side.answer" in each]


class _Heard:
    def __init__(self, messages: Any, crossed: list[str]) -> None:
        self._messages, self._crossed = messages, crossed

    def __aiter__(self) -> _Heard:
        return self

    async def __anext__(self) -> Message:
        message: Message = await self._messages.__anext__()
        self._crossed.append(f"{message.msg_type} {message.content!r}")
        return message

    async def aclose(self) -> None:
        await self._messages.aclose()


def _decoded(crossed: list[str]) -> list[str]:
    import base64
    import re

    return [
        base64.b64decode(found).decode(errors="replace")
        for each in crossed
        for found in re.findall(r"[A-Za-z0-9+/]{8,}={0,2}", each)
        if len(found) % 4 == 0
    ]


async def test_processes_that_a_learner_started_end_with_the_kernel(services: Services, task: Make) -> None:
    source = "import subprocess\ndef f(): return [each.pid for each in started]\n"
    source += "started = [subprocess.Popen(['sleep', '600']) for _ in range(5)]"
    made = task("assert len(f()) == 5", "pids = f()\nassert pids is None, str(pids)")
    result = await handed_in(services, made, source)
    assert [check.state for check in result.checks] == ["passed", "failed"]
    pids = json.loads(result.checks[1].message)
    await anyio.to_thread.run_sync(eventually, lambda: not any(_runs(pid) for pid in pids))


def _runs(pid: int) -> bool:
    try:
        process = psutil.Process(pid)
        return process.status() != psutil.STATUS_ZOMBIE and "sleep" in process.name()
    except psutil.NoSuchProcess:
        return False


async def test_a_check_that_is_cancelled_leaves_no_kernel(services: Services, task: Make) -> None:
    started = anyio.Event()
    start = services.kernels.start

    async def watched(*args: Any, **named: Any) -> Kernel:
        kernel = await start(*args, **named)
        started.set()
        return kernel

    services.kernels.start = watched  # type: ignore[method-assign]
    try:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(handed_in, services, task("assert f() == 1"), "while True: pass")
            await started.wait()
            tasks.cancel_scope.cancel()
    finally:
        services.kernels.start = start  # type: ignore[method-assign]
    assert living(services) == 0


async def test_setup_is_run_in_the_templates_wording(services: Services, tmp_path: Path) -> None:
    template = load_template(write(tmp_path / "a.ipynb", squares("assert square(3) == 9 and math.pi > 3")))
    result = await handed_in(services, template.tasks["squares"], "def square(x): return x * x", limits=PATIENT)
    assert result.state == "passed"
