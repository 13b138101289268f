import { createServer, type IncomingMessage, type ServerResponse } from "node:http";
import type { AddressInfo } from "node:net";
import { expect, onTestFinished, test, vi } from "vitest";
import { Client, Refused, Unreachable } from "../src/server/client";
import { isOlder, OtherApi, checkApi, parseRecord, retire, StartFailed, upArguments } from "../src/server/lifecycle";
import { InOrder } from "../src/server/order";
import type { Execution, State } from "../src/server/protocol";
import { RootServer } from "../src/server/root";
import { KnownState } from "../src/server/state";

type Handler = (request: IncomingMessage, response: ServerResponse, body: string) => void;

async function serve(handler: Handler): Promise<{ client: Client; close: () => void }> {
  const server = createServer((request, response) => {
    let body = "";
    request.setEncoding("utf8").on("data", (piece: string) => (body += piece));
    request.on("end", () => handler(request, response, body));
  });
  await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
  const close = (): void => {
    server.closeAllConnections();
    server.close();
  };
  onTestFinished(close);
  return { client: new Client(`http://127.0.0.1:${String((server.address() as AddressInfo).port)}/mcp`, "secret"), close };
}

const json = (response: ServerResponse, value: unknown, status = 200): unknown =>
  response.writeHead(status, { "content-type": "application/json" }).end(JSON.stringify(value));

const STATE: State = {
  server: { api: 1, version: "0.1.0", root: "/r", detached: true },
  kernels: [{ kernel_id: "k", name: "python3", display_name: "Python 3", language: "python", state: "idle", kernel_epoch: 1, notebooks: ["a.ipynb"], death: null }],
  executions: [], approvals: [], agents: { paused: false, run: "allow", notebooks: { "b.ipynb": { paused: true, run: null } } }, leases: [],
};
const EXECUTION = { execution_id: "x", kernel_id: "k", status: "running", author: "user" } as Execution;

test("a call carries the token, and its refusal says what to do", async () => {
  const { client } = await serve((request, response) => {
    if (request.headers.authorization !== "Bearer secret") json(response, {}, 401);
    else json(response, { error: "kernel_dead", message: "It died.", hint: "Restart it." }, 410);
  });
  await expect(client.get("/api/x")).rejects.toMatchObject({ status: 410, code: "kernel_dead", message: "It died. Restart it." });
});

test("a server that is gone, or silent, is unreachable", async () => {
  const gone = new Client("http://127.0.0.1:9/", null);
  await expect(gone.get("/health")).rejects.toThrow(Unreachable);
  const { client } = await serve(() => undefined);
  await expect(client.get("/health", { timeout: 100 })).rejects.toThrow(Unreachable);
});

test("a notebook's path keeps its folders in an address", async () => {
  const seen = vi.fn();
  const { client } = await serve((request, response, body) => {
    seen(request.method, request.url, body);
    json(response, { kernel_id: "k" });
  });
  await client.bind("a folder/ü?.ipynb", "k");
  expect(seen).toHaveBeenCalledWith("PUT", "/api/notebooks/a%20folder/%C3%BC%3F.ipynb/kernel", '{"kernel_id":"k"}');
});

test("a server with another protocol is refused in words, an older one asked to go", async () => {
  const { client } = await serve((request, response) => {
    if (request.url === "/health") json(response, { api: 2 });
    else json(response, { error: "not_detached", message: "no" }, 409);
  });
  const record = { pid: 1, root: "/r", version: "9.0.0", url: "", token: null };
  await expect(checkApi(client, record)).rejects.toThrow(OtherApi);
  expect(await retire(client)).toBe(false);
});

test("versions are compared by their numbers", () => {
  expect([["0.1.0", "0.2.0"], ["0.10.0", "0.9.0"], ["1.0.0", "1.0.0"], ["1.0.0rc1", "1.0.1"]].map(([one, other]) => isOlder(one!, other!))).toEqual([true, false, false, true]);
});

test("what `up` prints is a record, or it has failed", () => {
  expect(parseRecord('{"pid": 1, "root": "/r", "version": "0.1.0", "url": "http://127.0.0.1:1/mcp", "token": "t"}').token).toBe("t");
  expect(() => parseRecord("Traceback")).toThrow(StartFailed);
});

test("`up` is given only what was chosen", () => {
  const plain = { python: "/v/python", root: "/a b", interpreter: undefined, lingerMinutes: undefined, maxOutputBytes: undefined };
  expect(upArguments(plain)).toEqual(["-I", "-m", "mcp_server_jupyter", "up", "--root", "/a b"]);
  expect(upArguments({ ...plain, interpreter: "/i/python", lingerMinutes: 5 }).slice(6)).toEqual(["--python", "/i/python", "--linger-minutes", "5"]);
});

test("things are done in order, and one that fails stops none", async () => {
  const order = new InOrder();
  const done: number[] = [];
  const slow = order.do(async () => {
    await new Promise((resolve) => setTimeout(resolve, 30));
    done.push(1);
    throw new Error("no");
  });
  const fast = order.do(() => Promise.resolve(done.push(2)));
  await expect(slow).rejects.toThrow("no");
  await fast;
  expect(done).toEqual([1, 2]);
});

test("what is known is the last state and everything since", () => {
  const known = new KnownState();
  known.replace(STATE);
  known.execution(EXECUTION);
  expect(known.runningOn("k")?.execution_id).toBe("x");
  known.execution({ ...EXECUTION, status: "ok" });
  expect(known.runningOn("k")).toBeUndefined();
  expect(known.kernelOf("a.ipynb")?.kernel_id).toBe("k");
  expect(known.policyOf("b.ipynb")).toEqual({ paused: true, run: "allow" });
  known.kernel({ ...STATE.kernels[0]!, state: "gone" });
  expect(known.kernelOf("a.ipynb")).toBeUndefined();
});

function streaming(response: ServerResponse, ...events: [string, unknown][]): void {
  response.writeHead(200, { "content-type": "text/event-stream" });
  events.forEach(([event, data], at) => response.write(`id: s-${String(at)}\nevent: ${event}\ndata: ${JSON.stringify(data)}\n\n`));
}

function rootServer(start: () => Promise<{ client: Client; version: string }>): RootServer {
  const server = new RootServer("/r", "w-1", start, { info: () => undefined, warn: () => undefined });
  onTestFinished(() => server.dispose());
  return server;
}

test("a server that ends is followed by the next, which is asked to go on after the last event", async () => {
  const first = await serve((_, response) => streaming(response, ["state", STATE]));
  const asked = vi.fn();
  const second = await serve((request, response) => {
    asked(request.headers["last-event-id"]);
    streaming(response, ["state", { ...STATE, server: { ...STATE.server, version: "0.2.0" } }]);
  });
  const clients = [first.client, second.client];
  const server = rootServer(() => Promise.resolve({ client: clients.shift() ?? second.client, version: "" }));
  const seen: string[] = [];
  server.onState(({ server: { version } }) => seen.push(version));
  await server.ready();
  first.close();
  await vi.waitFor(() => expect(seen).toEqual(["0.1.0", "0.2.0"]), { timeout: 10_000 });
  expect(server.connected).toBe(true);
  expect(asked).toHaveBeenCalledWith("s-0");
});

test("whoever waits for a server that cannot start is told why, and the next who asks tries again", async () => {
  const { client } = await serve((_, response) => streaming(response, ["state", STATE]));
  const problem = new Error("no Python");
  const start = vi.fn<() => Promise<{ client: Client; version: string }>>().mockRejectedValueOnce(problem).mockResolvedValue({ client, version: "" });
  const server = rootServer(start);
  await expect(server.ready()).rejects.toBe(problem);
  expect(server.problem).toBe(problem);
  expect(await server.ready()).toBe(client);
  expect(server.problem).toBeUndefined();
});

test("a window that the server refuses stops asking", async () => {
  const { client } = await serve((_, response) => json(response, { error: "unsupported_api", message: "Update.", hint: null }, 400));
  const server = rootServer(() => Promise.resolve({ client, version: "" }));
  await expect(server.ready()).rejects.toThrow(Refused);
  expect(server.isWanted).toBe(false);
});
