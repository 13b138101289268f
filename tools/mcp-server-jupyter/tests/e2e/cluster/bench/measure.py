"""Runs in a pod beside the server: times what a client sees, and the same through jupyter_client alone.

Prints one JSON object: a figure's name to its samples in seconds.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from jupyter_client.blocking.client import BlockingKernelClient

COLD_ROUNDS, WARM_ROUNDS, RESTART_ROUNDS, AT_ONCE = 5, 4, 4, 30
CALLS = 200
SPREAD_CALLS, CLIENTS = 2_000, 16
REFILL_SECONDS = 6.0


class Server:
    """The operations of one server, over one connection that is kept."""

    def __init__(self, host: str, token: str) -> None:
        self._connection = http.client.HTTPConnection(host, 4040, timeout=180)
        self._headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}

    def call(self, operation: str, **arguments: Any) -> dict[str, Any]:
        self._connection.request("POST", f"/api/operations/{operation}", json.dumps(arguments), self._headers)
        with self._connection.getresponse() as response:
            told: dict[str, Any] = json.loads(response.read())
        if response.status != 200:
            raise RuntimeError(f"{operation}: {told}")
        return told

    def close(self) -> None:
        """The next call opens another connection."""
        self._connection.close()

    def start(self, name: str) -> str:
        """A kernel's id, once it runs."""
        told = self.call("start_kernel", kernel_name=name)
        return str(told["data"]["kernel_id"])

    def add(self, kernel: str) -> None:
        told = self.call("execute_code", code="1+1", kernel_id=kernel)
        while told["data"]["status"] not in ("ok", "error"):
            told = self.call("get_execution", execution_id=told["data"]["execution_id"], wait_seconds=60)
        if told["data"]["status"] != "ok" or "2" not in told["text"]:
            raise RuntimeError(f"1+1: {told}")

    def stop(self, kernel: str) -> None:
        self.call("shutdown_kernel", kernel_id=kernel)


def seconds(work: Any, *arguments: Any) -> float:
    started = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - started


def cold(server: Server) -> float:
    """From nothing to the first result."""
    started = time.perf_counter()
    kernel = server.start("python3")
    server.add(kernel)
    took = time.perf_counter() - started
    server.stop(kernel)
    return took


def warm(server: Server) -> float:
    """A kernel that waited already: until the start is answered."""
    server.close()  # or the server does, when it has been silent for so long
    time.sleep(REFILL_SECONDS)
    started = time.perf_counter()
    kernel = server.start("warm")
    took = time.perf_counter() - started
    server.add(kernel)
    server.stop(kernel)
    return took


def raw(client: BlockingKernelClient) -> None:
    """What a client without a server needs: the reply on shell, idle on iopub."""
    asked = client.execute("1+1", allow_stdin=False)
    while client.get_shell_msg(timeout=30)["parent_header"].get("msg_id") != asked:
        pass
    while True:
        message = client.get_iopub_msg(timeout=30)
        ours = message["parent_header"].get("msg_id") == asked
        if ours and message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
            return


def round_trips(server: Server, kernel: str, connection: dict[str, Any]) -> dict[str, list[float]]:
    """Raw and server take turns in a random order, on one kernel."""
    client = BlockingKernelClient()
    client.load_connection_info(connection)
    client.start_channels()
    client.wait_for_ready(timeout=30)
    samples: dict[str, list[float]] = {"1+1 raw": [], "1+1": []}
    for _ in range(CALLS):
        for name in random.sample(sorted(samples), 2):
            samples[name].append(seconds(raw, client) if name == "1+1 raw" else seconds(server.add, kernel))
    client.stop_channels()
    return samples


def at_once(host: str, token: str) -> dict[str, list[float]]:
    """So many clients that start a kernel at the same moment; each until its first result, and all of them."""
    kernels: list[str] = []

    def one(_: int) -> float:
        server = Server(host, token)
        started = time.perf_counter()
        kernel = server.start("small")
        server.close()  # or the server does meanwhile, which has little time for anybody now
        server.add(kernel)
        kernels.append(kernel)
        return time.perf_counter() - started

    started = time.perf_counter()
    with ThreadPoolExecutor(AT_ONCE) as pool:
        each = list(pool.map(one, range(AT_ONCE)))
    whole = time.perf_counter() - started
    server = Server(host, token)
    for kernel in kernels:
        server.stop(kernel)
    return {f"{AT_ONCE} at once, one": each, f"{AT_ONCE} at once, all": [whole]}


def fill(host: str, token: str, count: int) -> dict[str, list[float]]:
    """So many kernels more, each client starting one after the other."""
    each: list[float] = []

    def some(number: int) -> None:
        server = Server(host, token)
        for _ in range(number, count, CLIENTS):
            each.append(seconds(server.start, "hollow"))

    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(some, range(CLIENTS)))
    return {f"{count} started, one": each, f"{count} started, all": [time.perf_counter() - started]}


def spread(host: str, token: str) -> dict[str, list[float]]:
    """Calls one after the other, each of any kernel; then every kernel once, by several clients."""
    server = Server(host, token)
    kernels = [one["kernel_id"] for one in server.call("list_kernels")["data"]["kernels"]]
    for kernel in kernels[:CLIENTS]:
        server.add(kernel)
    calls = [seconds(server.add, random.choice(kernels)) for _ in range(SPREAD_CALLS)]

    def some(number: int) -> None:
        server = Server(host, token)
        for kernel in kernels[number::CLIENTS]:
            server.add(kernel)

    started = time.perf_counter()
    with ThreadPoolExecutor(CLIENTS) as pool:
        list(pool.map(some, range(CLIENTS)))
    return {"1+1": calls, "every kernel once": [time.perf_counter() - started]}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("token")
    parser.add_argument("part", choices=("starts", "calls", "burst", "fill", "spread"))
    parser.add_argument("--kernel")
    parser.add_argument("--connection", type=json.loads)
    parser.add_argument("--count", type=int)
    given = parser.parse_args()
    server = Server(given.host, given.token)
    samples: dict[str, list[float]] = {}
    if given.part == "starts":
        samples["cold start"] = [cold(server) for _ in range(COLD_ROUNDS)]
        samples["warm start"] = [warm(server) for _ in range(WARM_ROUNDS)]
        kernel = server.start("python3")
        restart = lambda: (server.call("restart_kernel", kernel_id=kernel), server.add(kernel))  # noqa: E731
        samples["restart"] = [seconds(restart) for _ in range(RESTART_ROUNDS)]
        server.stop(kernel)
    elif given.part == "calls":
        samples = round_trips(server, given.kernel, given.connection)
    elif given.part == "fill":
        samples = fill(given.host, given.token, given.count)
    elif given.part == "spread":
        samples = spread(given.host, given.token)
    else:
        samples = at_once(given.host, given.token)
    json.dump(samples, sys.stdout)


if __name__ == "__main__":
    main()
