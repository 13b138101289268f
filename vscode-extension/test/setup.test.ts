import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readdirSync, readFileSync, statSync, utimesSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { expect, test } from "vitest";
import { type Bundle, BrokenBundle, folderName, readBundle, servesOffline } from "../src/python/bundle";
import { clearFailure, noteFailure, readFailure } from "../src/python/failures";
import { type Interpreter, probe } from "../src/python/find";
import { launcherText, writeLauncher } from "../src/python/launcher";
import { withLock } from "../src/python/lock";
import { isolated, NotStarted, run, withoutEditor } from "../src/python/process";
import { discard, installed, installedForAny, pipArguments, setUp, type SetupFailed, type Source, type Step } from "../src/python/venv";
import { folder } from "./folder";

const WHEEL = "mcp_server_jupyter-0.1.0-py3-none-any.whl";
const PYTHON = process.env["PYTHON"] ?? "python3";

/** A pip that installs a server which only knows its version: a real zip that Python runs, as pip's wheel is. */
function fakePip(target: string, behaviour: string): void {
  const code = [
    "import os, sys, sysconfig",
    "requirements = open(sys.argv[sys.argv.index('-r') + 1]).read()",
    behaviour,
    "place = os.path.join(sysconfig.get_path('purelib'), 'mcp_server_jupyter')",
    "os.makedirs(place)",
    "open(os.path.join(place, '__init__.py'), 'w').close()",
    "open(os.path.join(place, '__main__.py'), 'w').write('print(\"0.1.0\")')",
    "open(os.path.join(place, 'requirements.txt'), 'w').write(requirements)",
  ].join("\n");
  execFileSync(PYTHON, ["-c", "import sys, zipfile; zipfile.ZipFile(sys.argv[1], 'w').writestr('pip/__main__.py', sys.argv[2])", target, code]);
}

function bundleIn(place: string, behaviour = ""): string {
  const python = join(place, "python_server");
  mkdirSync(join(python, "pip"), { recursive: true });
  writeFileSync(join(python, WHEEL), "a wheel");
  writeFileSync(join(python, `${WHEEL}.sha256`), `${createHash("sha256").update("a wheel").digest("hex")}  ${WHEEL}\n`);
  writeFileSync(join(python, "requirements.txt"), "click==8.5.1 --hash=sha256:00\n");
  fakePip(join(python, "pip", "pip-26.3-py3-none-any.whl"), behaviour);
  return python;
}

async function request(place: string, behaviour = "", source: Source = "index"): Promise<Parameters<typeof setUp>[0]> {
  const interpreter = await probe(PYTHON);
  if (interpreter === undefined) throw new Error(`${PYTHON} does not answer`);
  const bundle = await readBundle(bundleIn(place, behaviour));
  return { storage: join(place, "storage"), bundle, interpreter, source, signal: new AbortController().signal, report: () => undefined, log: () => undefined };
}

test("a set-up makes one whole environment, with the wheel by its path and hash, and the next finds it", async () => {
  const place = folder();
  const asked = await request(place);
  expect(await installed(asked.storage, asked.bundle, asked.interpreter)).toBeUndefined();
  const done = await setUp(asked);
  expect(execFileSync(done.python, ["-m", "mcp_server_jupyter"], { encoding: "utf8" }).trim()).toBe("0.1.0");
  const requirements = readFileSync(join(done.folder, "requirements.txt"), "utf8");
  expect(requirements).toContain(`/python_server/${WHEEL} --hash=sha256:${asked.bundle.hash}`);
  expect(await installedForAny(asked.storage, asked.bundle)).toEqual(done);
  expect(await setUp(asked)).toEqual(done);
  expect(readdirSync(join(asked.storage, "server"))).toEqual([folderName(asked.bundle, asked.interpreter)]);
});

test("two windows that set up at once make one", async () => {
  const place = folder();
  const asked = await request(place);
  const [one, other] = await Promise.all([setUp(asked), setUp(asked)]);
  expect(one).toEqual(other);
  expect(readdirSync(join(asked.storage, "server"))).toHaveLength(1);
});

test("a set-up that fails leaves nothing, and says what the installer said", async () => {
  const asked = await request(folder(), "print('WARNING: again'); sys.exit('ERROR: no such host: index\\n\\n[notice] x')");
  await expect(setUp(asked)).rejects.toMatchObject({ kind: "index", details: "no such host: index." });
  expect(readdirSync(join(asked.storage, "server"))).toEqual([]);
});

test("a cancelled set-up ends its programs and leaves nothing", async () => {
  const asked = await request(folder(), "import time; time.sleep(60)");
  const abort = new AbortController();
  const reason = new Error("cancelled");
  const started = Date.now();
  const report = ({ name }: Step): void => {
    if (name === "packages") setTimeout(() => abort.abort(reason), 200);
  };
  await expect(setUp({ ...asked, signal: abort.signal, report })).rejects.toBe(reason);
  expect(Date.now() - started).toBeLessThan(15_000);
  expect(readdirSync(join(asked.storage, "server"))).toEqual([]);
});

test("each package that the installer takes up is told, those left out on this platform too", async () => {
  const says = "print('Looking in indexes: x'); print('Collecting click==8.5.1 (from -r x (line 1))'); print('Processing /x.whl (from -r x (line 2))')";
  const asked = await request(folder(), says);
  const told: Step[] = [];
  await setUp({ ...asked, report: (step) => told.push(step) });
  const counts = told.flatMap(({ count }) => count ?? []);
  expect(counts).toEqual([{ done: 1, of: 2 }, { done: 2, of: 2 }]);
  expect(told.map(({ name }) => name)).toEqual(["waiting", "environment", "packages", "packages", "packages", "check"]);
});

test("what a killed set-up left is removed by the next, and an environment that is not whole counts for nothing", async () => {
  const asked = await request(folder());
  const server = join(asked.storage, "server");
  mkdirSync(join(server, ".new-1-x"), { recursive: true });
  mkdirSync(join(server, folderName(asked.bundle, asked.interpreter)));
  await setUp(asked);
  expect(readdirSync(server)).toEqual([folderName(asked.bundle, asked.interpreter)]);
});

test("the environment before is kept, one that nobody used for long goes, and a repair begins anew", async () => {
  const asked = await request(folder());
  const server = join(asked.storage, "server");
  const old = new Date(Date.now() - 30 * 86_400_000);
  for (const [at, name] of ["aaaaaaaaaaaa-3.11", "bbbbbbbbbbbb-3.12"].entries()) {
    mkdirSync(join(server, name), { recursive: true });
    writeFileSync(join(server, name, "installed.json"), "{}");
    utimesSync(join(server, name, "installed.json"), old, new Date(old.getTime() - at * 1_000));
  }
  await setUp(asked);
  expect(readdirSync(server).sort()).toEqual([folderName(asked.bundle, asked.interpreter), "aaaaaaaaaaaa-3.11"].sort());
  await discard(asked.storage, asked.bundle, asked.interpreter);
  expect(await installedForAny(asked.storage, asked.bundle)).toBeUndefined();
});

test("without an index nothing is asked of one: wheels that are not here are refused", async () => {
  const asked = await request(folder(), "", "bundled");
  await expect(setUp(asked)).rejects.toMatchObject({ kind: "offline" } satisfies Partial<SetupFailed>);
  const house: Bundle = { ...asked.bundle, wheelhouse: "/w", houseTags: [`cp3${String(asked.interpreter.version[1])}`] };
  expect(servesOffline(house, asked.interpreter)).toBe(true);
  expect(pipArguments(house, "/s", true)).toContain("--no-index");
  expect(pipArguments(house, "/s", false)).not.toContain("--no-index");
  expect(pipArguments(house, "/s", false)).toContain("--require-hashes");
});

test("a wheel that is not the packaged one is refused", async () => {
  const python = bundleIn(folder());
  writeFileSync(join(python, WHEEL), "another");
  await expect(readBundle(python)).rejects.toThrow(BrokenBundle);
});

test("an environment is another for another wheel, other requirements or another Python", () => {
  const bundle = { hash: "a", requirements: "x" } as Bundle;
  const made = (minor: number): Interpreter => ({ version: [3, minor, 1] }) as unknown as Interpreter;
  const names = [folderName(bundle, made(11)), folderName({ ...bundle, hash: "b" }, made(11)), folderName({ ...bundle, requirements: "y" }, made(11)), folderName(bundle, made(12))];
  expect(new Set(names).size).toBe(4);
});

test("a lock is waited for, and taken over from a holder that was killed", async () => {
  const path = join(folder(), "lock");
  const order: string[] = [];
  const { signal } = new AbortController();
  const first = withLock(path, signal, async () => {
    order.push("first");
    await new Promise((resolve) => setTimeout(resolve, 300));
    order.push("first ends");
  });
  await new Promise((resolve) => setTimeout(resolve, 50));
  await Promise.all([first, withLock(path, signal, () => Promise.resolve(order.push("second")))]);
  expect(order).toEqual(["first", "first ends", "second"]);
  expect(existsSync(path)).toBe(false);
  writeFileSync(path, "killed");
  utimesSync(path, new Date(0), new Date(0));
  await withLock(path, signal, () => Promise.resolve(order.push("third")));
  expect(order).toContain("third");
});

test("whoever waits for a lock can be stopped", async () => {
  const path = join(folder(), "lock");
  writeFileSync(path, "another window");
  await expect(withLock(path, AbortSignal.timeout(100), () => Promise.resolve())).rejects.toThrow();
});

test("a failure is remembered for its version alone, until it is cleared", async () => {
  const storage = join(folder(), "s");
  await noteFailure(storage, { version: "1.0.0", kind: "index", details: "no host", at: "now" });
  expect((await readFailure(storage, "1.0.0"))?.details).toBe("no host");
  expect(await readFailure(storage, "1.0.1")).toBeUndefined();
  await clearFailure(storage);
  expect(await readFailure(storage, "1.0.0")).toBeUndefined();
});

test("the launcher starts what is there now, wherever it is", async () => {
  const storage = join(folder(), "with 'quotes' and spaces");
  const script = join(storage, "python's");
  mkdirSync(storage);
  writeFileSync(script, '#!/bin/sh\necho "$@"\n', { mode: 0o755 });
  const path = await writeLauncher(storage, script);
  expect(statSync(path).mode & 0o111).not.toBe(0);
  expect(execFileSync(path, ["up", "--root", "/a b"], { encoding: "utf8" }).trim()).toBe("-I -m mcp_server_jupyter up --root /a b");
  await writeLauncher(storage, "/gone/python");
  expect(() => execFileSync(path, { stdio: "pipe" })).toThrow(/Set Up \/ Repair/);
  expect(launcherText("C:\\100%\\python.exe", "win32")).toContain("100%%");
});

test("programs get neither the editor's variables nor another Python's", () => {
  const env = { PATH: "/bin", VSCODE_PID: "1", ELECTRON_RUN_AS_NODE: "1", NODE_OPTIONS: "x", PYTHONPATH: "/p", PIP_USER: "1", PIP_INDEX_URL: "u" };
  expect(isolated(env)).toEqual({ PATH: "/bin", PIP_INDEX_URL: "u" });
  expect(withoutEditor(env)).toMatchObject({ PYTHONPATH: "/p" });
});

test("a program that is not there, or takes too long, is told so", async () => {
  await expect(run("/no/such/program", [])).rejects.toThrow(NotStarted);
  expect((await run("sleep", ["30"], { timeout: 100 })).code).toBeNull();
});
