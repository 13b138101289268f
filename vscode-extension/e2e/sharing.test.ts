/** A person and their agents in one notebook, and what ends in the middle of it. */
import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { Agent } from "./support/agent.ts";
import { readCells, textOf, writeNotebook } from "./support/notebooks.ts";
import { begin, sharedEditor } from "./support/shared.ts";
import { until } from "./support/wait.ts";

const COUNT = "import time\nfor i in range(20):\n    print(f'line {i:02}')\n    time.sleep(0.3)\nprint('the end')";
const lines = `${Array.from({ length: 20 }, (_, index) => `line ${String(index).padStart(2, "0")}\n`).join("")}the end\n`;

test("an agent's edits and runs show beside unsaved typing, and both are saved", async () => {
  const editor = await sharedEditor();
  const { folder, file, window } = await begin(editor, ["a = 1", "print('mine')"]);
  await window.connected();
  await window.type(0, "\nb = 2");
  using agent = await Agent.start(editor, folder);
  const told = await agent.call("append_execute_code_cell", { notebook_path: "a.ipynb", cell_source: "print('by the', 'agent')" });
  assert.match(told.text, /by the agent/);
  await agent.call("overwrite_cell_source", { notebook_path: "a.ipynb", cell_index: 1, cell_source: "print('ours')" });
  await window.shows("by the agent");
  await until("the agent's edit shows", async () => (await window.source(1)) === "print('ours')");
  assert.equal(await window.source(0), "a = 1\nb = 2");
  await window.type(0, "3");
  await window.picture("agent-beside-typing");
  const read = async (): Promise<string> => (await agent.call("read_cell", { notebook_path: "a.ipynb", cell_index: 0 })).text;
  await until("the agent reads what was typed", async () => (await read()).includes("b = 23"));
  await window.save();
  const cells = readCells(file);
  assert.deepEqual(cells.map((cell) => cell.source), ["a = 1\nb = 23", "print('ours')", "print('by the', 'agent')"]);
  assert.equal(textOf(cells[2]), "by the agent\n");
  await window.close();
});

test("a window that is loaded again shows the running cell and all of its output", async () => {
  const editor = await sharedEditor();
  const { file, window } = await begin(editor, [COUNT]);
  await window.run(0);
  await window.shows("line 05");
  await window.reload();
  if ((await window.cells().count()) === 0) await window.show("a.ipynb");
  await window.shows("the end");
  await window.save();
  assert.equal(textOf(readCells(file)[0]), lines);
  await window.close();
});

test("an extension host that is killed in mid-cell loses no output", async () => {
  const editor = await sharedEditor();
  const { file, window } = await begin(editor, [COUNT]);
  await window.run(0);
  await window.shows("line 05");
  editor.killExtensionHost();
  const restart = window.page.getByRole("button", { name: "Restart Extension Host" });
  await restart.or(window.page.locator(".kernel-label")).first().waitFor();
  if (await restart.isVisible()) await restart.click();
  await window.shows("the end");
  await window.picture("extension-host-killed");
  await window.save();
  assert.equal(textOf(readCells(file)[0]), lines);
  await window.close();
});

test("an agent comes first, a window next, the agent leaves: the variables stay", async () => {
  const editor = await sharedEditor();
  const folder = editor.folder("agent-first");
  writeNotebook(path.join(folder, "a.ipynb"), ["print('x is', x)"]);
  const agent = await Agent.start(editor, folder);
  await agent.call("execute_code", { notebook_path: "a.ipynb", code: "x = 'from the agent'" });
  const window = await editor.open(folder, "a.ipynb");
  await window.connected();
  agent[Symbol.dispose]();
  await window.run(0);
  await window.shows("x is from the agent");
  await window.close();
});

test("two folders of the same name have kernels of their own", async () => {
  const editor = await sharedEditor();
  const windows = [];
  for (const parent of ["one", "two"]) {
    const folder = editor.folder(`${parent}/same`);
    writeNotebook(path.join(folder, "a.ipynb"), [`print(globals().setdefault('first', '${parent}') + '!')`]);
    const window = await editor.open(folder, "a.ipynb");
    await window.run(0);
    await window.shows(`${parent}!`);
    windows.push(window);
  }
  for (const window of windows) await window.close();
});

test("a killed kernel is told, and the next run has a new one", async () => {
  const editor = await sharedEditor();
  const { window } = await begin(editor, ["import os, signal\nos.kill(os.getpid(), signal.SIGKILL)", "print('alive', 'again')"]);
  await window.run(0);
  await until("the cell is told to have failed", async () => (await window.cell(0).locator(".codicon-notebook-state-error").count()) > 0);
  await window.picture("kernel-killed");
  await window.answer(/The kernel of a\.ipynb is gone/, "Restart Kernel");
  await window.connected();
  await window.run(1);
  await window.shows("alive again");
  await window.close();
});
