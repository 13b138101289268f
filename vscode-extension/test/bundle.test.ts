/** What is checked before anything is packaged. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterEach, beforeEach, expect, test } from "vitest";
import { complaints } from "../scripts/check-bundle.js";

const WHEEL = "python_server/mcp_server_jupyter-1.2.3-py3-none-any.whl";
const HASHED = `anyio==4.16.0 ; python_version >= "3.11" \\\n    --hash=sha256:${"0".repeat(64)}\n`;
let folder = "";

function put(name: string, text: string): void {
  const file = path.join(folder, name);
  mkdirSync(path.dirname(file), { recursive: true });
  writeFileSync(file, text);
}

beforeEach(() => {
  folder = mkdtempSync(path.join(tmpdir(), "bundle-"));
  put("package.json", JSON.stringify({ name: "x", publisher: "x", version: "1.2.3", engines: { vscode: "^1.105.0" } }));
  put(".vscodeignore", "");
  put("dist/extension.js", "exports.activate = () => {};");
  put(WHEEL, "wheel");
  put(`${WHEEL}.sha256`, `${createHash("sha256").update("wheel").digest("hex")}  ${path.basename(WHEEL)}\n`);
  put("python_server/requirements.txt", HASHED);
});

afterEach(() => rmSync(folder, { recursive: true }));

/** All complaints but the one on pip, whose real wheel the other tests have no use for. */
async function others(): Promise<string[]> {
  return (await complaints(folder)).filter((line) => !line.startsWith("python_server/pip/"));
}

test("a wheel with its hash, and what it needs by hash, is fine", async () => {
  expect(await others()).toEqual([]);
});

test.each(["python_server/server.py", "media/x.pyi", "src/pyproject.toml"])("Python source is refused: %s", async (name) => {
  put(name, "");
  expect(await others()).toEqual([expect.stringContaining(`${name} is Python source`)]);
});

test.each(["python_server/mcp_server_jupyter-1.2.2-py3-none-any.whl", "python_server/other-1-py3-none-any.whl", "python_server/x.tar.gz"])(
  "a second package is refused: %s",
  async (name) => {
    put(name, "");
    expect(await others()).toEqual([expect.stringContaining("holds 2 packages, not one")]);
  },
);

test("no wheel, no requirements and no bundle are refused, each with what to do", async () => {
  for (const name of [WHEEL, "python_server/requirements.txt", "dist/extension.js"]) rmSync(path.join(folder, name));
  const found = await others();
  expect(found).toHaveLength(3);
  for (const line of found) expect(line).toContain("run `npm run");
});

test.each([
  "anyio==4.16.0",
  "anyio>=4 --hash=sha256:" + "0".repeat(64),
  "anyio==4.16.0 --hash=sha256:short",
  "./local.whl",
  "-e ../server",
])("a dependency without exact version and hash is refused: %s", async (line) => {
  put("python_server/requirements.txt", `${HASHED}${line}\n`);
  expect(await others()).toEqual([expect.stringContaining("no exact version or no hash")]);
});

test("a wheel that is not the one whose hash is beside it is refused", async () => {
  put(WHEEL, "another wheel");
  expect(await others()).toEqual([expect.stringContaining("is not that of the wheel")]);
});

test("a wheel of another version is refused", async () => {
  rmSync(path.join(folder, WHEEL));
  rmSync(path.join(folder, `${WHEEL}.sha256`));
  const older = WHEEL.replace("1.2.3", "1.2.2");
  put(older, "wheel");
  put(`${older}.sha256`, createHash("sha256").update("wheel").digest("hex"));
  expect(await others()).toEqual([expect.stringContaining("is not of the extension's version, 1.2.3")]);
});

test("another installer than the pinned one is refused", async () => {
  put("python_server/pip/pip-26.3-py3-none-any.whl", "not pip");
  expect(await complaints(folder)).toEqual([expect.stringContaining("is not the file that scripts/requirements-pip.txt names")]);
});

test("a bundle over its budget is refused", async () => {
  put("dist/extension.js", "x".repeat(250_001));
  expect(await others()).toEqual([expect.stringContaining("more than 250000")]);
});

test("the script that copied Python source refuses, and says what builds the wheel", () => {
  const script = path.resolve(import.meta.dirname, "../scripts/copy-python-server.js");
  const run = () => execFileSync(process.execPath, [script], { stdio: "pipe", encoding: "utf8" });
  expect(run).toThrow(/npm run bundle-python/);
});
