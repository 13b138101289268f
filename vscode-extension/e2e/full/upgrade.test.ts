/** An upgrade of the extension while a cell runs. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { copyFileSync, mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import path from "node:path";
import { test } from "node:test";
import { Editor } from "../support/editor.ts";
import { readCells, textOf } from "../support/notebooks.ts";
import { extensionFolder, findVsix, python, version } from "../support/places.ts";
import { begin } from "../support/shared.ts";
import { until } from "../support/wait.ts";

const OLDER = "0.0.1";
const COUNT = "import time\nfor i in range(100):\n    print(f'line {i:02}')\n    time.sleep(0.4)\nprint('the end')";
const lines = `${Array.from({ length: 100 }, (_, index) => `line ${String(index).padStart(2, "0")}\n`).join("")}the end\n`;

/** Package this tree under a lower version. */
function packageOlder(scratch: string): string {
  const repository = path.resolve(extensionFolder, "..");
  const copy = path.join(scratch, "repository");
  const listed = execFileSync("git", ["ls-files", "-z", "--cached", "--others", "--exclude-standard"], { cwd: repository, encoding: "utf8" });
  for (const file of listed.split("\0").filter((name) => /^(vscode-extension|tools\/mcp-server-jupyter\/(src|scripts|jupyter-config|[^/]*$))|^[^/]+$/.test(name))) {
    const to = path.join(copy, file);
    mkdirSync(path.dirname(to), { recursive: true });
    copyFileSync(path.join(repository, file), to);
  }
  const versions: [string, RegExp][] = [
    ["tools/mcp-server-jupyter/pyproject.toml", /^(version = ")[\d.]+/m],
    ["tools/mcp-server-jupyter/src/mcp_server_jupyter/__init__.py", /^(__version__ = ")[\d.]+/m],
    ["vscode-extension/package.json", /^( {2}"version": ")[\d.]+/m],
  ];
  for (const [name, pattern] of versions) {
    const file = path.join(copy, name);
    writeFileSync(file, readFileSync(file, "utf8").replace(pattern, `$1${OLDER}`));
  }
  symlinkSync(path.join(extensionFolder, "node_modules"), path.join(copy, "vscode-extension/node_modules"));
  const dist = path.join(scratch, "dist");
  const env = { ...process.env, PYTHON: python };
  execFileSync(process.execPath, ["scripts/package.js", dist, "--universal"], { cwd: path.join(copy, "vscode-extension"), env, stdio: "pipe" });
  return path.join(dist, `mcp-server-jupyter-${OLDER}.vsix`);
}

test("an upgrade in mid-cell loses neither the cell's output nor the variables, and ends with the new server", async () => {
  const scratch = mkdtempSync(path.join(tmpdir(), "older-"));
  try {
    await using editor = await Editor.start({ vsix: packageOlder(scratch) });
    const { file, window } = await begin(editor, ["print('i is', i)", COUNT]);
    await window.run(1);
    await window.shows("line 02", 180); // the first cell sets up the server from the package index
    editor.install(findVsix("platform"));
    await window.reload();
    if ((await window.cells().count()) === 0) await window.show("a.ipynb");
    await window.shows("the end", 120);
    await window.run(0);
    await window.shows("i is 99", 120);
    await window.picture("upgraded");
    await window.save();
    assert.equal(textOf(readCells(file)[1]), lines);
    await until("the new version's server runs", () => editor.extensionLog().includes(`server ${version}`), { seconds: 60 });
  } finally {
    rmSync(scratch, { recursive: true, force: true });
  }
});
