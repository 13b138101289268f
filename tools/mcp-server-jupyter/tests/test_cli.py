"""The commands, as a person runs them."""

from __future__ import annotations

import dataclasses
import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from http_app import COMMAND, clean_environment, notebook, stdio
from mcp_server_jupyter import __version__, cli
from mcp_server_jupyter.commands import config
from mcp_server_jupyter.commands.run import inject, parse_parameters, prepare
from mcp_server_jupyter.commands.sample import copy_sample
from mcp_server_jupyter.errors import InvalidRequest, NotFound, Unsupported
from mcp_server_jupyter.notebooks import new_cell
from mcp_server_jupyter.settings import Settings
from mcp_server_jupyter.tokens import client_token
from mcp_server_jupyter.values import PREFIX
from support import Server, free_port, outputs_text


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    environment = {**clean_environment(), "XDG_STATE_HOME": str(folder / "state")}
    root = folder / "root"
    root.mkdir(exist_ok=True)
    return subprocess.run(
        [*COMMAND, *arguments], cwd=root, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


# --------------------------------------------------------------------------- help and start


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys\nfrom mcp_server_jupyter.cli import main\nsys.argv = ['x', '--help']\n"
        "try:\n    main()\nexcept SystemExit:\n    pass\n"
        "heavy = {'mcp', 'pydantic', 'starlette', 'uvicorn', 'zmq', 'nbformat', 'asyncio', 'anyio', 'structlog'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout.endswith("HEAVY []\n")


@pytest.mark.parametrize(("door", "more"), [("doors.serving", ("prometheus_client",)), ("doors.http.serve", ())])
def test_importing_a_door_starts_nothing_and_loads_no_kernel_client(door: str, more: tuple[str, ...]) -> None:
    code = (
        f"import sys, threading\nimport mcp_server_jupyter.{door}\n"
        f"heavy = {{'jupyter_client', 'zmq', 'PIL', 'psutil', 'structlog', *{more}}}\n"
        "print(sorted(heavy & set(sys.modules)), threading.active_count())"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout == "[] 1\n"


def test_a_relay_loads_the_standard_library_and_no_server() -> None:
    code = (
        "import sys\nimport mcp_server_jupyter.cli, mcp_server_jupyter.doors.stdio.relay\n"
        "heavy = {'mcp', 'pydantic', 'starlette', 'zmq', 'nbformat', 'asyncio', 'anyio', 'structlog'}\n"
        "heavy |= {'sqlite3', 'ssl'}\nprint(sorted(heavy & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert shown.stdout == "[]\n"


def test_the_version_is_the_packages() -> None:
    assert CliRunner().invoke(cli.commands, ["--version"]).output.strip().endswith(__version__)


def test_every_setting_is_an_option_of_the_server_commands_with_its_variable() -> None:
    for arguments in (["--help"], ["serve", "--help"], ["gateway", "--help"], ["hub", "--help"]):
        shown = " ".join(CliRunner().invoke(cli.commands, arguments).output.split())
        for field in dataclasses.fields(Settings):
            own = field.metadata["group"] if field.metadata["group"] in ("Gateway", "Hub") else "serve"
            if own.lower() not in (arguments[0], "serve" if arguments == ["--help"] else ""):
                continue
            assert f"--{field.name.replace('_', '-')} " in shown, field.name
            assert PREFIX + field.name.upper() in shown, field.name


@pytest.mark.parametrize("command", ["serve", "up", "down", "run", "doctor", "kernels", "config"])
def test_every_command_says_what_it_does(command: str) -> None:
    shown = CliRunner().invoke(cli.commands, [command, "--help"])
    assert shown.exit_code == 0
    assert shown.output.startswith("Usage: ")


def test_an_option_may_stand_before_the_command_and_after_it_wins(tmp_path: Path) -> None:
    before = run(tmp_path, "--notebook=a.ipynb", "config", "generic")
    assert "a.ipynb" in before.stdout
    after = run(tmp_path, "--notebook=a.ipynb", "config", "generic", "--notebook=b.ipynb")
    assert "b.ipynb" in after.stdout
    assert "a.ipynb" not in after.stdout


@pytest.mark.parametrize(
    "arguments", [["serve", "--port=http"], ["kernels", "--root=/nowhere"], ["serve", "--host=0.0.0.0", "--no-auth"]]
)
def test_a_wrong_setting_is_one_line_and_exit_code_2(tmp_path: Path, arguments: list[str]) -> None:
    ended = run(tmp_path, *arguments)
    assert ended.returncode == 2
    assert ended.stderr.startswith("Error: ")
    assert "Traceback" not in ended.stderr
    assert ended.stdout == ""


@pytest.mark.parametrize(
    ("given", "variable", "are_forked"),
    [
        (["gateway"], None, True),
        (["gateway", "--no-fork-kernels"], None, False),
        (["--no-fork-kernels", "gateway"], None, False),
        (["gateway"], "no", False),
        (["run", "--each", "sets.jsonl", "--output-dir", "out", "a.ipynb"], None, True),
        (["run", "--each", "sets.jsonl", "--output-dir", "out", "--no-fork-kernels", "a.ipynb"], None, False),
        (["run", "a.ipynb"], None, False),
        (["serve"], None, True),
        (["serve", "--no-fork-kernels"], None, False),
    ],
)
def test_kernels_are_forked_unless_that_is_refused_or_there_is_one_only(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, given: list[str], variable: str | None, are_forked: bool
) -> None:
    seen: list[Settings] = []

    def begin(settings: Settings, *_: Any, **__: Any) -> bool:
        seen.append(settings)
        return True

    for name in ("run_gateway", "run_sets", "run_notebook", "run_server"):
        monkeypatch.setattr(cli.servers, name, begin)
    monkeypatch.chdir(tmp_path)
    ended = CliRunner().invoke(cli.commands, given, env={f"{PREFIX}FORK_KERNELS": variable})
    assert ended.exit_code == 0, ended.output
    assert [settings.fork_kernels for settings in seen] == [are_forked]


# --------------------------------------------------------------------------- config


@pytest.mark.parametrize("client", cli.CLIENTS)
def test_a_configuration_for_every_client_starts_this_very_server(tmp_path: Path, client: str) -> None:
    assert set(cli.CLIENTS) == set(config.CLIENTS)
    ended = run(tmp_path, "config", client)
    assert ended.returncode == 0
    servers = tomllib.loads(ended.stdout) if client == "codex" else json.loads(ended.stdout)
    entry = servers[{"vscode": "servers", "codex": "mcp_servers", "zed": "context_servers"}.get(client, "mcpServers")][
        "jupyter"
    ]
    started = subprocess.run(
        [entry["command"], *entry["args"]], stdin=subprocess.DEVNULL, capture_output=True, timeout=60, check=False,
        env={**clean_environment(), "XDG_STATE_HOME": str(tmp_path / "state")},
    )  # fmt: skip
    assert started.returncode == 0, started.stderr


def test_a_configuration_for_a_container_has_the_form_of_other_servers_guides(tmp_path: Path) -> None:
    ended = run(tmp_path, "config", "claude-desktop", "--docker", "--notebook=a.ipynb")
    entry = json.loads(ended.stdout)["mcpServers"]["jupyter"]
    host = "localhost" if sys.platform == "linux" else "host.docker.internal"
    network = ["--network=host"] if sys.platform == "linux" else []
    values = [f"ROOM_URL=http://{host}:8888", "ROOM_TOKEN=changeme", "ROOM_ID=a.ipynb"]
    values += [f"RUNTIME_URL=http://{host}:8888", "RUNTIME_TOKEN=changeme"]
    variables = [word for value in values for word in ("-e", value)]
    image = f"mcp-server-jupyter/server:{__version__}"
    assert entry == {"command": "docker", "args": ["run", "-i", "--rm", *network, *variables, image, "--embedded"]}
    assert run(tmp_path, "config", "claude-desktop", "--docker", "--http").returncode == 2


@pytest.mark.parametrize("client", sorted(set(cli.CLIENTS) - {"claude-desktop"}))
def test_a_configuration_for_a_running_server_holds_its_address_and_a_token_for_it_alone(client: str) -> None:
    text = json.dumps(config.http_config(client, "http://127.0.0.1:4040/mcp", "the-token"))
    assert "http://127.0.0.1:4040/mcp" in text
    assert f"Bearer {client_token('the-token')}" in text
    assert "the-token" not in text
    assert "Authorization" not in json.dumps(config.http_config(client, "http://127.0.0.1:4040/mcp", None))


def test_a_configuration_may_name_a_program_that_stays_where_it_is(tmp_path: Path) -> None:
    program = '/opt/with "quotes"/mcp-server-jupyter'
    ended = run(tmp_path, "config", "codex", f"--command={program}")
    entry = tomllib.loads(ended.stdout)["mcp_servers"]["jupyter"]
    assert entry == {"command": program, "args": ["--root", str(tmp_path / "root")]}


def test_claude_code_is_told_the_line_that_adds_the_server(tmp_path: Path) -> None:
    ended = run(tmp_path, "config", "claude", "--notebook=my notes.ipynb")
    given = json.loads(ended.stdout)["mcpServers"]["jupyter"]
    line = re.search(r"^\(or run: (claude mcp add .*)\)$", ended.stderr, re.MULTILINE)
    assert line, ended.stderr
    assert shlex.split(line[1])[3:] == ["jupyter", "--", given["command"], *given["args"]]
    over_http = config.as_command("claude", config.http_config("claude", "http://127.0.0.1:4040/mcp", "the-token"))
    assert over_http is not None
    words = shlex.split(over_http)
    assert words[:7] == ["claude", "mcp", "add", "--transport", "http", "jupyter", "http://127.0.0.1:4040/mcp"]
    assert words[7:] == ["--header", f"Authorization: Bearer {client_token('the-token')}"]
    assert config.as_command("zed", config.http_config("zed", "http://127.0.0.1:4040/mcp", None)) is None


def test_zed_finds_the_server_among_its_context_servers(tmp_path: Path) -> None:
    ended = run(tmp_path, "config", "zed")
    assert list(json.loads(ended.stdout)) == ["context_servers"]
    assert "settings.json" in ended.stderr
    entry = config.http_config("zed", "http://127.0.0.1:4040/mcp", "the-token")["context_servers"]["jupyter"]
    assert set(entry) == {"url", "headers"}


def test_codex_sends_the_token_as_its_own_configuration_says() -> None:
    text = config.as_text("codex", config.http_config("codex", "http://127.0.0.1:4040/mcp", "the-token"))
    entry = tomllib.loads(text)["mcp_servers"]["jupyter"]
    assert entry == {
        "url": "http://127.0.0.1:4040/mcp",
        "http_headers": {"Authorization": f"Bearer {client_token('the-token')}"},
    }


def test_a_client_that_only_starts_servers_is_told_so() -> None:
    with pytest.raises(InvalidRequest, match="itself"):
        config.http_config("claude-desktop", "http://127.0.0.1:4040/mcp", None)


def test_a_configuration_over_http_is_of_a_server_that_answers(tmp_path: Path) -> None:
    import httpx2

    ended = run(tmp_path, "config", "cursor", "--http")
    try:
        entry = json.loads(ended.stdout)["mcpServers"]["jupyter"]
        call = {"method": "tools/call", "params": {"name": "list_notebooks", "arguments": {}}}
        answer = httpx2.post(entry["url"], json=call, headers=entry["headers"], timeout=60)
        assert "result" in answer.json()
        assert "serve --port" in ended.stderr
    finally:
        assert run(tmp_path, "down").returncode == 0


def test_a_server_with_a_port_of_its_own_is_configured_without_a_warning(tmp_path: Path) -> None:
    port = free_port()
    server = Server(tmp_path, f"--port={port}").start()
    try:
        ended = run(tmp_path, "config", "cursor", "--http", f"--state-dir={server.state}")
        assert f":{port}/mcp" in ended.stdout
        assert "serve --port" not in ended.stderr
    finally:
        server.stop()


# --------------------------------------------------------------------------- run


def test_a_notebook_is_executed_with_its_parameters_into_a_copy(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    source = json.loads(notebook("x = 1", "print('x is', x, type(x).__name__)"))
    source["cells"][0]["metadata"]["tags"] = ["parameters"]
    before = json.dumps(source)
    (tmp_path / "root" / "a.ipynb").write_text(before)
    ended = run(tmp_path, "run", "a.ipynb", "-p", "x=[7, 8]", "--output", "out/b.ipynb")
    assert ended.returncode == 0, ended.stderr
    executed = json.loads((tmp_path / "root" / "out" / "b.ipynb").read_text())
    assert "x is [7, 8] list" in outputs_text(executed["cells"][2])
    assert executed["cells"][1]["metadata"]["tags"] == ["injected-parameters"]
    assert (tmp_path / "root" / "a.ipynb").read_text() == before
    assert "[3/3]" in ended.stdout


def test_a_failing_cell_is_shown_and_ends_in_exit_code_1(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "a.ipynb").write_text(notebook("print('before')", "1 / 0", "print('never')"))
    ended = run(tmp_path, "run", "a.ipynb")
    assert ended.returncode == 1
    assert "ZeroDivisionError" in ended.stdout
    written = json.loads((tmp_path / "root" / "a.ipynb").read_text())
    assert outputs_text(written["cells"][0]) == "before\n"
    assert written["cells"][1]["outputs"][0]["ename"] == "ZeroDivisionError"
    assert written["cells"][2]["outputs"] == []


def test_a_notebook_that_is_not_there_is_exit_code_2(tmp_path: Path) -> None:
    ended = run(tmp_path, "run", "none.ipynb")
    assert ended.returncode == 2
    assert "none.ipynb" in ended.stderr


def test_a_copy_runs_in_the_folder_of_its_original(tmp_path: Path) -> None:
    folder = tmp_path / "root" / "sub"
    folder.mkdir(parents=True)
    (folder / "data.txt").write_text("the data")
    (folder / "a.ipynb").write_text(notebook("print(open('data.txt').read())"))
    ended = run(tmp_path, "run", "sub/a.ipynb", "--output", "b.ipynb")
    assert ended.returncode == 0, ended.stdout
    assert "the data" in (tmp_path / "root" / "b.ipynb").read_text()


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("x=1", 1),
        ("x=1.5", 1.5),
        ("x=-3", -3),
        ("x=true", True),
        ("x=False", False),
        ("x=null", None),
        ("x=[1, 'a']", [1, "a"]),
        ('x={"a": 1}', {"a": 1}),
        ("x=plain text", "plain text"),
        ("x='quoted'", "quoted"),
        ("x=a=b", "a=b"),
        ("x=", ""),
        ("x=__import__('os')", "__import__('os')"),
        ("x=2024-01-01", "2024-01-01"),
    ],
)
def test_a_parameter_is_a_literal_or_else_a_text(text: str, value: object) -> None:
    assert parse_parameters([text]) == {"x": value}


@pytest.mark.parametrize("text", ["x", "=1", "1x=1", "a b=1", "class=1", "x;import os=1"])
def test_what_is_no_parameter_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest):
        parse_parameters([text])


def node(*tags: str, language: str = "python") -> Any:
    from nbformat.v4 import new_notebook

    cells = []
    for tag in tags:
        cell = new_cell("code", f"# {tag}")
        cell["metadata"]["tags"] = [tag] if tag else []
        cells.append(cell)
    return new_notebook(cells=cells, metadata={"kernelspec": {"language": language, "name": "k", "display_name": "k"}})


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [
        (["", "parameters", ""], ["", "parameters", "injected-parameters", ""]),
        (["", ""], ["injected-parameters", "", ""]),
        (["parameters", "injected-parameters", ""], ["parameters", "injected-parameters", ""]),
        ([], ["injected-parameters"]),
    ],
)
def test_parameters_are_put_after_the_tagged_cell_or_at_the_top(tags: list[str], wanted: list[str]) -> None:
    edited = node(*tags)
    inject(edited, {"x": 1})
    assert [(cell.metadata.get("tags") or [""])[0] for cell in edited.cells] == wanted


def test_parameters_of_another_language_are_refused() -> None:
    with pytest.raises(Unsupported):
        inject(node("", language="R"), {"x": 1})


def test_a_notebook_outside_the_root_is_refused(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "a.ipynb").write_text(notebook())
    with pytest.raises(InvalidRequest, match="outside"):
        prepare(tmp_path / "root", tmp_path / "a.ipynb", None)
    with pytest.raises(NotFound):
        prepare(tmp_path / "root", tmp_path / "root" / "none.ipynb", None)


# --------------------------------------------------------------------------- sample, doctor, kernels


def test_the_sample_is_copied_and_nothing_is_overwritten(tmp_path: Path) -> None:
    assert copy_sample(tmp_path) == "welcome.ipynb"
    shipped = {path.name for path in tmp_path.iterdir()}
    (tmp_path / "welcome.ipynb").write_text("mine")
    assert copy_sample(tmp_path) == "welcome.ipynb"
    assert (tmp_path / "welcome.ipynb").read_text() == "mine"
    assert {path.name for path in tmp_path.iterdir()} == shipped


def test_after_the_demonstration_the_sample_is_still_copied(tmp_path: Path) -> None:
    for name in ("analysis-demo.ipynb", "measurements.csv"):
        (tmp_path / name).write_text("of the demonstration")
    assert copy_sample(tmp_path) == "welcome.ipynb"
    assert (tmp_path / "welcome.ipynb").exists()
    assert (tmp_path / "measurements.csv").read_text() == "of the demonstration"


def test_a_root_with_notebooks_gets_no_sample(tmp_path: Path) -> None:
    (tmp_path / "mine.ipynb").write_text(notebook())
    assert copy_sample(tmp_path) is None
    assert [path.name for path in tmp_path.iterdir()] == ["mine.ipynb"]


def test_the_doctor_finds_a_working_installation_well(tmp_path: Path) -> None:
    ended = run(tmp_path, "doctor", "--port=0")
    assert ended.returncode == 0, ended.stdout
    assert "FAIL" not in ended.stdout
    assert "adds in" in ended.stdout


def test_the_doctor_says_what_is_wrong_and_what_to_do(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file, where a folder should be")
    ended = run(tmp_path, "doctor", "--port=0", "--kernel-name=none-such")
    assert ended.returncode == 1
    assert "FAIL  State directory" in ended.stdout
    assert "another --state-dir" in ended.stdout
    assert "none-such" in ended.stdout


def test_kernels_of_the_running_server_are_listed_and_stopped(tmp_path: Path) -> None:
    server = Server(tmp_path).start()
    try:
        (server.root / "a.ipynb").write_text(notebook())
        kernel = server.call("execute_code", code="1", notebook_path="a.ipynb")["data"]["kernel_id"]
        state = f"--state-dir={server.state}"
        assert kernel in run(tmp_path, "kernels", state).stdout
        assert run(tmp_path, "kernels", state, "stop", kernel[:8]).returncode == 0
        assert kernel not in run(tmp_path, "kernels", state).stdout
        missing = run(tmp_path, "kernels", state, "stop", "nope")
        assert missing.returncode == 2
        assert "No kernel 'nope'" in missing.stderr
    finally:
        server.stop()


def test_kernels_that_a_server_left_running_are_listed_and_stopped(tmp_path: Path) -> None:
    server = Server(tmp_path, "--keep-kernels").start()
    (server.root / "a.ipynb").write_text(notebook())
    kernel = server.call("execute_code", code="1", notebook_path="a.ipynb")["data"]["kernel_id"]
    assert server.stop() == 0
    state = f"--state-dir={server.state}"
    assert kernel in run(tmp_path, "kernels", state).stdout
    assert kernel in run(tmp_path, "kernels", state).stdout
    assert run(tmp_path, "kernels", state, "stop", kernel).returncode == 0
    assert kernel not in run(tmp_path, "kernels", state).stdout


def test_kernels_of_every_root_are_listed(tmp_path: Path) -> None:
    state = tmp_path / "s"
    ids = {}
    try:
        for name in ("one", "two"):
            with stdio(tmp_path / name, state, "--linger-minutes=5") as client:
                client.initialize()
                client.call("create_notebook", notebook_path="a")
                client.call("execute_code", code="1", notebook_path="a.ipynb")
                ids[name] = client.call("list_kernels").split()[0]
        (tmp_path / "gone").mkdir()
        run(tmp_path, "kernels", f"--state-dir={state}", f"--root={tmp_path / 'gone'}")
        (tmp_path / "gone").rmdir()
        shown = run(tmp_path, "kernels", "--all", f"--state-dir={state}").stdout
        for name in ("one", "two"):
            assert str(tmp_path / name) in shown
            assert ids[name] in shown
        found = run(tmp_path, "doctor", "--port=0", f"--state-dir={state}").stdout
        assert f"{tmp_path / 'gone'}, which is gone" in found
        assert "rm -r" in found
    finally:
        for name in ("one", "two"):
            run(tmp_path, "down", f"--state-dir={state}", f"--root={tmp_path / name}")


def test_a_notebook_is_run_beside_a_server_on_a_kernel_of_its_own(tmp_path: Path) -> None:
    state = tmp_path / "s"
    with stdio(tmp_path / "root", state) as client:
        client.initialize()
        (tmp_path / "root" / "a.ipynb").write_text(notebook("import os; print('pid', os.getpid())"))
        theirs = client.call("execute_code", code="import os; os.getpid()", notebook_path="a.ipynb").split()[-1]
        ended = run(tmp_path, "run", "a.ipynb", f"--state-dir={state}")
        assert ended.returncode == 0, ended.stderr
        assert theirs == client.call("execute_code", code="os.getpid()", notebook_path="a.ipynb").split()[-1]
    executed = json.loads((tmp_path / "root" / "a.ipynb").read_text())
    assert outputs_text(executed["cells"][0]).split()[-1] != theirs
    assert list((state / "runs").iterdir()) == []


def test_a_check_that_there_is_not_is_refused_with_those_there_are(tmp_path: Path) -> None:
    ended = run(tmp_path, "doctor", "weather")
    assert ended.returncode == 2
    assert ended.stderr == "Error: There is no check 'weather'. Name one of these, or none: forks, kubernetes.\n"


def test_the_doctor_of_clusters_says_what_to_do_where_there_is_none(tmp_path: Path) -> None:
    ended = run(tmp_path, "doctor", "kubernetes", f"--kubeconfig={tmp_path / 'none'}")
    assert ended.returncode == 1
    assert ended.stdout.startswith("FAIL  There is no cluster to start kernels in")
    assert "KUBECONFIG" in ended.stdout


def test_a_doctor_without_temporary_folder_says_so(tmp_path: Path) -> None:
    code = (
        "import tempfile, sys\ndef refuse(*a, **k): raise FileNotFoundError(2, 'No usable temporary directory')\n"
        "tempfile.mkdtemp = tempfile.gettempdir = refuse\n"
        f"sys.argv = ['x', 'doctor', '--port=0', '--root={tmp_path}', '--state-dir={tmp_path / 'state'}']\n"
        "from mcp_server_jupyter.cli import main; main()"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 1
    assert "FAIL  Temporary files" in ended.stdout
    assert "TMPDIR" in ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", [[], ["up"], ["serve", "--port=0"], ["--embedded"]])
def test_whatever_serves_a_root_makes_it(command: list[str], tmp_path: Path) -> None:
    missing = tmp_path / "data" / "notebooks"
    own = [f"--root={missing}", f"--state-dir={tmp_path / 'state'}"]
    made = subprocess.Popen(
        [*COMMAND, *command, *own],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(),
        text=True,
    )
    try:
        assert made.stderr is not None
        assert made.stderr.readline() == f"Made the root {missing}.\n"
        assert missing.is_dir()
    finally:
        if command[:1] == ["serve"]:
            made.terminate()
        made.communicate(timeout=60)
        run(tmp_path, "down", *own)


@pytest.mark.parametrize("command", [["down"], ["kernels"], ["doctor"]])
def test_what_only_looks_at_a_root_does_not_make_it(command: list[str], tmp_path: Path) -> None:
    missing = tmp_path / "data" / "notebooks"
    refused = run(tmp_path, *command, f"--root={missing}", f"--state-dir={tmp_path / 'state'}")
    assert refused.returncode == 2
    assert "is not a folder" in refused.stderr
    assert not missing.exists()


def test_a_configuration_for_a_jupyter_names_the_token_and_does_not_hold_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def shown(*arguments: str) -> dict[str, str]:
        printed = CliRunner().invoke(cli.commands, ["config", "claude", "--jupyter", *arguments])
        assert printed.exit_code == 0, printed.output
        entry: dict[str, Any] = json.loads(printed.stdout)["mcpServers"]["jupyter"]
        return {"url": entry["url"], "header": entry["headers"]["Authorization"]}

    for name in ("JUPYTERHUB_SERVICE_URL", "MCP_JUPYTER_JUPYTER_URL"):
        monkeypatch.delenv(name, raising=False)
    assert shown() == {"url": "http://localhost:8888/api/mcp/", "header": "token ${JUPYTER_TOKEN}"}
    named = shown("--jupyter-url", "https://lab.example.org/base")
    assert named == {"url": "https://lab.example.org/base/api/mcp/", "header": "token ${JUPYTER_TOKEN}"}
    monkeypatch.setenv("JUPYTERHUB_API_TOKEN", "secret-of-the-server")
    monkeypatch.setenv("JUPYTERHUB_SERVICE_URL", "http://0.0.0.0:8888/user/ada/")
    of_hub = shown()
    assert of_hub == {"url": "http://127.0.0.1:8888/user/ada/api/mcp/", "header": "token ${JUPYTERHUB_API_TOKEN}"}
