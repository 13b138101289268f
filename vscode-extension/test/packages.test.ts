/** The packages themselves, as `make package` builds them, but for the wheels of other Pythons. */
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import { chmodSync, copyFileSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, statSync, symlinkSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { afterAll, expect, test } from "vitest";

const repository = path.resolve(import.meta.dirname, "../..");
const scratch = mkdtempSync(path.join(tmpdir(), "packages-"));

afterAll(() => rmSync(scratch, { recursive: true }));

/** Build from a copy of what git knows, in a folder, under a umask and in a time zone of its own. */
function build(name: string, umask: number, zone: string): Map<string, string> {
  const copy = path.join(scratch, name, "repository");
  const before = process.umask(umask);
  try {
    const listed = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], { cwd: repository, encoding: "utf8" });
    for (const file of listed.split("\0").filter((file) => /^(vscode-extension|tools\/mcp-server-jupyter\/(src|scripts|jupyter-config|[^/]*$))|^[^/]*$/.test(file))) {
      if (file === "") continue;
      mkdirSync(path.dirname(path.join(copy, file)), { recursive: true });
      copyFileSync(path.join(repository, file), path.join(copy, file));
      chmodSync(path.join(copy, file), (file.includes("scripts/") ? 0o777 : 0o666) & ~umask);
    }
    symlinkSync(path.join(repository, "vscode-extension/node_modules"), path.join(copy, "vscode-extension/node_modules"));
    const dist = path.join(scratch, name, "dist");
    const env = { ...process.env, TZ: zone, PYTHON: pythonOfEnvironment() };
    execFileSync(process.execPath, ["scripts/package.js", dist, "--universal"], { cwd: path.join(copy, "vscode-extension"), env, stdio: "pipe" });
    return new Map(readdirSync(dist).map((file) => [file, createHash("sha256").update(readFileSync(path.join(dist, file))).digest("hex")]));
  } finally {
    process.umask(before);
  }
}

/** The Python whose Poetry is set up: that of the development environment. */
function pythonOfEnvironment(): string {
  return path.join(repository, "tools/mcp-server-jupyter/.venv/bin/python");
}

test("two builds in two folders have the same bytes", { timeout: 180_000 }, () => {
  const one = build("one", 0o022, "UTC");
  const other = build("another folder", 0o077, "Asia/Tokyo");
  expect([...one.keys()].map((name) => name.replace(/\d+\.\d+\.\d+/, "X")).sort()).toEqual([
    "mcp-server-jupyter-X.vsix",
    "mcp_server_jupyter-X-py3-none-any.whl",
  ]);
  expect(other).toEqual(one);
});

test("the package holds one wheel of the server beside the installer, no Python source, and little else", () => {
  const dist = path.join(scratch, "one/dist");
  const vsix = readdirSync(dist).find((name) => name.endsWith(".vsix")) ?? "";
  const list = "import sys, zipfile; print(*zipfile.ZipFile(sys.argv[1]).namelist(), sep='\\n')";
  const names = execFileSync(pythonOfEnvironment(), ["-c", list, path.join(dist, vsix)], { encoding: "utf8" }).trim().split("\n");
  expect(names.filter((name) => name.endsWith(".whl")).map((name) => path.posix.dirname(name)).sort()).toEqual([
    "extension/python_server",
    "extension/python_server/pip",
  ]);
  expect(names.filter((name) => /\.(pyc?|ts|map)$|node_modules|\/(src|test|e2e|scripts)\//.test(name))).toEqual([]);
  for (const needed of ["package.json", "dist/extension.js", "LICENSE.txt", "changelog.md", "readme.md", "python_server/requirements.txt"]) {
    expect(names).toContain(`extension/${needed}`);
  }
  expect(statSync(path.join(dist, vsix)).size).toBeLessThanOrEqual(3_000_000);
});
