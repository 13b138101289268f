"""The requests and commands of the stack's document, each as it stands there, against the running stack."""

from __future__ import annotations

import json
import subprocess
import tarfile
from pathlib import Path
from typing import Any

import httpx2
import pytest

from conftest import GATEWAY, JUPYTER, SERVER, TOKEN, Stack, until

ACCEPT = {"accept": "application/json, text/event-stream"}
KERNELSPEC = {"kernelspec": {"name": "python3", "display_name": "Python 3"}}
SCRAPBOOK = """import scrapbook as sb
import pandas as pd

# Your analysis code
df = pd.DataFrame({"name": ["Alice", "Bob"], "score": [95, 87]})
summary_stats = {"mean_score": df.score.mean(), "total_records": len(df)}

# Capture results with Scrapbook (preferred method)
sb.glue("analysis_results", df)
sb.glue("summary", summary_stats)"""


def notebook(*sources: str, **metadata: Any) -> dict[str, Any]:
    cells = [{"cell_type": "code", "source": source, "metadata": metadata} for source in sources]
    return {"notebook": {"cells": cells, "metadata": KERNELSPEC}}


def curl(*arguments: str) -> str:
    done = subprocess.run(["curl", "-sS", *arguments], text=True, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


# --------------------------------------------------------------------------- the services


def test_all_three_services_are_healthy(stack: Stack) -> None:
    rows = [json.loads(line) for line in stack.compose("ps", "--format", "json").stdout.splitlines()]
    assert {row["Service"]: row["Health"] for row in rows} == {
        "jupyter": "healthy",
        "papermill-gateway": "healthy",
        "jupyter-mcp-server": "healthy",
    }


@pytest.mark.parametrize(
    ("service", "port", "memory", "cpus", "grace"),
    [
        ("jupyter", 8888, 4, 2.0, 60),
        ("papermill-gateway", 5005, 2, 1.0, 60),
        ("jupyter-mcp-server", 4040, 1, 0.5, 30),
    ],
)
def test_limits_addresses_and_health_checks_are_the_documents(
    stack: Stack, service: str, port: int, memory: int, cpus: float, grace: int
) -> None:
    host = json.loads(stack.inspect(service, "{{json .HostConfig}}"))
    assert (host["Memory"], host["NanoCpus"]) == (memory << 30, int(cpus * 1e9))
    assert host["RestartPolicy"]["Name"] == "unless-stopped"
    assert host["PortBindings"] == {f"{port}/tcp": [{"HostIp": "127.0.0.1", "HostPort": str(port)}]}
    check = json.loads(stack.inspect(service, "{{json .Config.Healthcheck}}"))
    seconds = {name: check[name] / 1e9 for name in ("Interval", "Timeout", "StartPeriod")}
    assert seconds == {"Interval": 30, "Timeout": 10, "StartPeriod": grace}
    assert check["Retries"] == 3
    assert stack.python(service, "import os; print(os.getuid(), os.getgid())") == "1000 100"


def test_both_services_have_the_volume_and_the_folder(stack: Stack) -> None:
    stack.python("jupyter", "open('work/shared.txt', 'w').write('kept')")
    stack.python("jupyter", "open('notebooks/seen.txt', 'w').write('seen')")
    assert stack.python("papermill-gateway", "print(open('work/shared.txt').read())") == "kept"
    assert (stack.notebooks / "seen.txt").read_text() == "seen"


def test_services_reach_each_other_by_name(stack: Stack) -> None:
    for address in ("papermill-gateway:5005/health", "jupyter-mcp-server:4040/health"):
        code = f"import urllib.request as u; print(u.urlopen('http://{address}', timeout=60).status)"
        assert stack.python("jupyter", code) == "200"


def test_jupyter_wants_its_token(stack: Stack, http: httpx2.Client) -> None:
    assert http.get(f"{JUPYTER}/api").status_code == 200
    assert http.get(f"{JUPYTER}/api/contents").status_code == 403
    assert http.get(f"{JUPYTER}/api/contents", headers=TOKEN).status_code == 200
    assert "JupyterLab" in http.get(f"{JUPYTER}/lab", params={"token": "changeme"}, follow_redirects=True).text


@pytest.mark.parametrize("address", [f"{GATEWAY}/metrics", f"{SERVER}/health"])
def test_a_foreign_host_is_refused(stack: Stack, http: httpx2.Client, address: str) -> None:
    assert http.get(address, headers={"host": "rebound.example"}).status_code == 421


# --------------------------------------------------------------------------- the gateway


def test_the_documents_first_request_is_answered(stack: Stack) -> None:
    body = notebook('import pandas as pd\nresult = {"message": "Hello World"}\nprint(result)', tags=["results"])
    answer = curl(
        "-X", "POST", f"{GATEWAY}/run", "-H", "Content-Type: application/json", "-d", json.dumps(body)
    )  # fmt: skip
    assert json.loads(answer)["results"] == {"message": "Hello World"}


def test_scrapbooks_example_gives_exactly_its_results(stack: Stack, http: httpx2.Client) -> None:
    answer = http.post(f"{GATEWAY}/run", json=notebook(SCRAPBOOK)).json()
    assert answer["results"] == {
        "analysis_results": {"columns": ["name", "score"], "index": [0, 1], "data": [["Alice", 95], ["Bob", 87]]},
        "summary": {"mean_score": 91.0, "total_records": 2},
    }


def test_n8n_and_raw_notebooks_are_answered_alike(stack: Stack, http: httpx2.Client) -> None:
    body = notebook('result_data = {"status": "completed", "value": 42}\nresult_data', tags=["results"])
    for sent in (body, body["notebook"], [body], {"json": body}, {"body": body}):
        assert http.post(f"{GATEWAY}/run", json=sent).json()["results"] == {"status": "completed", "value": 42}


def test_an_execution_error_is_told_as_in_the_document(stack: Stack, http: httpx2.Client) -> None:
    answer = http.post(f"{GATEWAY}/run", json=notebook("1", "2", "print(undefined_variable)"))
    told = answer.json()
    assert answer.status_code == 422
    assert (told["error_type"], told["cell"], told["ename"]) == ("papermill_execution_error", 2, "NameError")
    assert told["evalue"] == "name 'undefined_variable' is not defined"
    assert told["cell_source"] == "print(undefined_variable)"
    assert told["traceback"]
    assert told["output_nb"].endswith(".ipynb")


def test_missing_modules_are_named(stack: Stack, http: httpx2.Client) -> None:
    answer = http.post(f"{GATEWAY}/run", json=notebook("import tensorflow", "import opencv"))
    told = answer.json()
    assert (answer.status_code, told["error_type"]) == (422, "missing_dependencies")
    assert told["missing_modules"] == ["tensorflow", "opencv"]
    assert told["message"] == "Missing required modules: tensorflow, opencv"


def test_kernels_and_sizes_that_are_not_allowed_are_refused(stack: Stack, http: httpx2.Client) -> None:
    body = notebook("1")
    body["notebook"]["metadata"] = {"kernelspec": {"name": "bash"}}
    assert http.post(f"{GATEWAY}/run", json=body).status_code == 400
    assert http.post(f"{GATEWAY}/run", json=notebook("#" * 6_000_000)).status_code == 413


def test_metrics_have_the_documents_keys(stack: Stack, http: httpx2.Client) -> None:
    found = json.loads(curl(f"{GATEWAY}/metrics"))
    assert found["service"] == "papermill-gateway"
    assert {name: type(found[name]) for name in ("uptime", "memory_usage_mb", "cpu_percent")} == {
        "uptime": float,
        "memory_usage_mb": float,
        "cpu_percent": float,
    }
    assert found["config"] == {
        "max_notebook_size_mb": 5,
        "execution_timeout": 300,
        "use_scrapbook": True,
        "allowed_kernels": ["python3", "python"],
    }
    assert "gateway_runs" in http.get(f"{GATEWAY}/metrics", headers={"accept": "text/plain"}).text


# --------------------------------------------------------------------------- the MCP server


def test_the_servers_health_is_answered(stack: Stack) -> None:
    assert json.loads(curl("-f", f"{SERVER}/health"))


def test_the_documents_bare_request_lists_the_tools(stack: Stack) -> None:
    body = '{"method": "tools/list", "params": {}}'
    answer = curl("-X", "POST", SERVER, "-H", "Content-Type: application/json", "-d", body)
    names = {tool["name"] for tool in json.loads(answer)["result"]["tools"]}
    writing = {"insert_execute_code_cell", "append_markdown_cell"}
    assert writing | {"get_notebook_info", "read_cell", "list_notebooks"} <= names


def call(http: httpx2.Client, tool: str, **arguments: Any) -> str:
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": tool, "arguments": arguments}}
    answer = http.post(SERVER, json=body, headers=ACCEPT).json()
    assert not answer["result"].get("isError"), answer
    return "\n".join(block["text"] for block in answer["result"]["content"] if block["type"] == "text")


def test_an_agents_cell_runs_in_jupyters_kernel_and_is_in_jupyters_notebook(stack: Stack, http: httpx2.Client) -> None:
    path = "notebooks/agent.ipynb"
    call(http, "create_notebook", notebook_path=path)
    source = "import os; print(6 * 7, os.getcwd())"
    told = call(http, "insert_execute_code_cell", notebook_path=path, cell_index=0, cell_source=source)
    assert "42 /home/jovyan/notebooks" in told
    assert "agent.ipynb" in call(http, "list_notebooks")
    assert "6 * 7" in call(http, "read_cell", notebook_path=path, cell_index=0)
    sessions = http.get(f"{JUPYTER}/api/sessions", headers=TOKEN).json()
    assert path in [session["path"] for session in sessions]

    def saved() -> list[str]:
        answer = http.get(f"{JUPYTER}/api/contents/{path}", headers=TOKEN)
        if answer.status_code == 400:
            # Jupyter writes a file in place: for a moment it is none of a notebook.
            return []
        return ["".join(cell["source"]) for cell in answer.json()["content"]["cells"]]

    # People see it at once; the room, which gives an empty notebook a cell of its own, writes the file a moment later.
    until(lambda: source in saved())
    assert (stack.notebooks / "agent.ipynb").exists()


# --------------------------------------------------------------------------- maintenance


@pytest.mark.parametrize("services", [["papermill-gateway"], ["jupyter"], []])
def test_logs_are_shown(stack: Stack, services: list[str]) -> None:
    assert stack.compose("logs", *services).stdout.strip()


def test_the_notebooks_are_backed_up(stack: Stack) -> None:
    (stack.notebooks / "mine.ipynb").write_text("{}")
    done = subprocess.run(["tar", "-czf", "backup.tar.gz", "notebooks/"], cwd=stack.folder, check=False)
    assert done.returncode == 0
    with tarfile.open(stack.folder / "backup.tar.gz") as archive:
        assert "notebooks/mine.ipynb" in archive.getnames()


def test_the_volume_is_backed_up_under_the_documents_name(stack: Stack) -> None:
    stack.python("jupyter", "open('work/precious.txt', 'w').write('kept')")
    # The document's image comes from a registry; any that has tar will do.
    image = stack.inspect("jupyter", "{{.Config.Image}}")
    (stack.folder / "backup").mkdir()
    mounts = ["-v", "jupyter-data:/source", "-v", f"{stack.folder}/backup:/backup"]
    archive = "/backup/jupyter-data.tar.gz"
    stack.docker("run", "--rm", "--user=0", *mounts, image, "tar", "czf", archive, "-C", "/source", ".")
    with tarfile.open(Path(stack.folder / "backup" / "jupyter-data.tar.gz")) as found:
        assert "./precious.txt" in found.getnames()


def test_the_volume_and_the_folder_outlive_an_update(stack: Stack) -> None:
    stack.python("jupyter", "open('work/stays.txt', 'w').write('stays')")
    stack.compose("pull")
    stack.compose("down", "--timeout=10")
    stack.compose("up", "--detach", "--no-build", "--wait")
    assert stack.python("jupyter", "print(open('work/stays.txt').read())") == "stays"
    assert (stack.notebooks / "mine.ipynb").exists()
