/** What a person is told when there is no server to be set up: a sentence, and a button that is there. */
import { execFileSync } from "node:child_process";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { expect, test } from "vitest";
import { Problem } from "../src/errors";
import { BrokenBundle } from "../src/python/bundle";
import { find, fromUv, onPath } from "../src/python/find";
import { described, noPython, refuseWhereNothingRuns, stepWords } from "../src/python/problems";
import { type FailureKind, SetupFailed } from "../src/python/venv";
import { folder } from "./folder";

const PYTHON = execFileSync(process.env["PYTHON"] ?? "python3", ["-c", "import sys; print(sys.executable)"], { encoding: "utf8" }).trim();
const declared = (JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as { contributes: { commands: { command: string }[] } }).contributes.commands;
const own = new Set(declared.map(({ command }) => command));
const editors = new Set(["workbench.action.openSettings", "workbench.extensions.search", "workbench.trust.manage"]);

function program(place: string, name: string, text: string): string {
  const file = path.join(place, name);
  writeFileSync(file, `#!/bin/sh\n${text}\n`, { mode: 0o755 });
  return file;
}

const caught = (work: () => void): unknown => {
  try {
    work();
  } catch (error) {
    return error;
  }
  return undefined;
};

const KINDS: FailureKind[] = ["disk-full", "index", "offline", "broken", "venv", "check"];

test.each([...KINDS.map((kind) => new SetupFailed(kind, "the details")), new BrokenBundle("it holds no pip."), new Error("anything")])("a failed set-up is told with a button: %s", (error) => {
  const problem = described(error);
  expect(problem.message).toMatch(/\.$|details$|anything$/);
  expect(problem.cause).toBe(error);
  const { command = "" } = problem.button ?? {};
  expect(own.has(command) || editors.has(command), command).toBe(true);
});

test("on Windows a person is led to WSL; in a folder that is not trusted, to its trust", () => {
  expect(caught(() => refuseWhereNothingRuns("win32", true))).toMatchObject({ message: expect.stringContaining("WSL") as string, button: { title: "Open in WSL" } });
  expect(caught(() => refuseWhereNothingRuns("linux", false))).toMatchObject({ button: { command: "workbench.trust.manage" } });
  expect(caught(() => refuseWhereNothingRuns("darwin", true))).toBeUndefined();
});

test("without any Python, with one that is too old, and with a setting that names none, the sentence differs", async () => {
  const place = folder();
  const old = program(place, "python3", `echo '["${place}/python3", [3, 10, 4], "cpython", true, true]'`);
  const none = await find([]);
  const tooOld = await find([{ path: old, from: "PATH" }, { path: path.join(place, "nothing"), from: "PATH" }]);
  expect(tooOld).toMatchObject({ found: undefined, rejected: [{ why: "old", version: "3.10.4" }, { why: "failed" }] });
  expect(noPython(none, "").message).toContain("There is no Python here");
  expect(noPython(tooOld, "").message).toContain("the newest here is 3.10.4");
  expect(noPython(none, "/set/python").message).toContain("/set/python");
  for (const problem of [noPython(none, ""), noPython(tooOld, ""), noPython(none, "/x")]) expect(problem).toBeInstanceOf(Problem);
});

test("a Python that only uv knows is found, and one that it would have to download is not asked for", async () => {
  const place = folder();
  const arguments_ = path.join(place, "arguments");
  program(place, "uv", `echo "$@" > '${arguments_}'\necho '${PYTHON}'`);
  const candidates = await fromUv(place);
  expect(candidates).toEqual([{ path: PYTHON, from: "uv" }]);
  expect(readFileSync(arguments_, "utf8").trim()).toBe("python find --no-project --no-python-downloads >=3.11");
  expect((await find(candidates)).found?.version.slice(0, 1)).toEqual([3]);
  const without = path.join(place, "none");
  mkdirSync(without);
  expect(await fromUv(without)).toEqual([]);
  program(without, "uv", "echo 'error: No interpreter found' >&2; exit 2");
  expect(await fromUv(without)).toEqual([]);
});

test("real Pythons of a search path are asked and the first that serves is taken", async () => {
  const place = folder();
  program(place, "python3.14", "exit 1");
  program(place, "python3", `exec '${PYTHON}' "$@"`);
  const search = await find(onPath(place, "linux").filter(({ path: file }) => file.startsWith(place)));
  expect(search.rejected).toMatchObject([{ path: path.join(place, "python3.14"), why: "failed" }]);
  expect(search.found?.path).toBe(PYTHON);
});

test("progress tells how many packages there are", () => {
  expect(stepWords({ name: "packages", count: { done: 3, of: 40 } })).toBe("installing the server (3 of 40 packages)");
  for (const name of ["waiting", "environment", "packages", "check"] as const) expect(stepWords({ name })).not.toBe("");
});
