import { expect, test } from "vitest";
import { find, type Interpreter, isNewEnough, onPath, parseProbe } from "../src/python/find";

function python(path: string, minor: number, more: Partial<Interpreter> = {}): Interpreter {
  return { path, version: [3, minor, 0], implementation: "cpython", hasVenv: true, hasIpykernel: false, ...more };
}

test("the newest Python of a search path is asked first, the store's stand-in never", () => {
  const there = new Set(["/a/python3", "/b/python3.13", "/a/python3.11", "C:\\x\\WindowsApps\\python3.12"]);
  expect(onPath("/a:/b", "linux", (path) => there.has(path)).map(({ path }) => path)).toEqual(["/b/python3.13", "/a/python3.11", "/a/python3"]);
});

test("the first that the server runs on is taken; the others are told with their reason", async () => {
  const known = new Map([["/old", python("/old", 9)], ["/pypy", python("/pypy", 12, { implementation: "pypy" })], ["/good", python("/good", 12)]]);
  const candidates = ["/none", "/old", "/old", "/pypy", "/good", "/never"].map((path) => ({ path, from: "PATH" }));
  const search = await find(candidates, (path) => Promise.resolve(known.get(path)));
  expect(search.found?.path).toBe("/good");
  expect(search.rejected.map(({ path, why }) => [path, why])).toEqual([["/none", "failed"], ["/old", "old"], ["/pypy", "incomplete"]]);
});

test("what prints anything else than the probe's answer is no Python", () => {
  expect(parseProbe("/x", "hello")).toBeUndefined();
  expect(parseProbe("/x", '{"a": 1}')).toBeUndefined();
  expect(parseProbe("/x", 'warning\n["/x/y", [3, 12, 1], "cpython", true, true]\n')).toMatchObject({ path: "/x/y", version: [3, 12, 1], hasIpykernel: true });
});

test("3.11 is the oldest", () => {
  expect([[3, 10], [3, 11], [3, 14], [4, 0], [2, 7]].map(isNewEnough)).toEqual([false, true, true, true, false]);
});
