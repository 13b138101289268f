/** Which notebooks are shared, and that a notebook keeps its kernel under whatever name. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { createVSIX } from "@vscode/vsce";
import { Editor } from "../support/editor.ts";
import { readCells, textOf, writeNotebook } from "../support/notebooks.ts";
import { findVsix, python } from "../support/places.ts";
import { begin, sharedEditor } from "../support/shared.ts";
import { until } from "../support/wait.ts";

test("a notebook without a file runs, and its first save keeps the kernel", async () => {
  const editor = await sharedEditor();
  const folder = editor.folder("untitled");
  const window = await editor.open(folder);
  await window.command("Create: New Jupyter Notebook");
  await window.cell(0).waitFor();
  await window.type(0, "kept = 'from before'");
  await window.run(0);
  await window.ran(0);
  await window.page.keyboard.press("Control+S");
  const input = window.page.locator(".quick-input-widget:visible input").first();
  // What is typed into this dialog counts a moment later: the name that it offers is taken.
  await input.waitFor();
  await window.page.keyboard.press("Enter");
  const file = path.join(folder, "Untitled-1.ipynb");
  await until("the notebook has a file", () => existsSync(file));
  await window.connected();
  await until("the notebook has the kernel", async () => /idle/.test(await window.status()));
  await window.replace(0, "print('kept', kept)");
  await window.run(0);
  await window.shows("kept from before");
  await window.save();
  assert.equal(textOf(readCells(file)[0]), "kept from before\n");
  await window.close();
});

test("a notebook that is renamed while it is open keeps its kernel and its marks", async () => {
  const editor = await sharedEditor();
  const { folder, window } = await begin(editor, ["x = 'still there'", "print('x is', x)"]);
  await window.connected();
  await window.run(0);
  await window.ran(0);
  await window.save();
  await window.page.locator('.explorer-folders-view .monaco-list-row[aria-label^="a.ipynb"]').click();
  await window.page.keyboard.press("F2");
  const input = window.page.locator(".explorer-folders-view input").first();
  await input.fill("renamed.ipynb");
  await input.press("Enter");
  await window.page.locator('.tab[data-resource-name="renamed.ipynb"]').waitFor();
  await window.show("renamed.ipynb");
  await until("the notebook has its kernel", async () => /idle/.test(await window.status()));
  await window.run(1);
  await window.shows("x is still there");
  await window.save();
  assert.equal(textOf(readCells(path.join(folder, "renamed.ipynb"))[1]), "x is still there\n");
  await window.close();
});

test("a notebook that is renamed while a cell runs loses nothing, and shows the run's end under its new name", async () => {
  const editor = await sharedEditor();
  const gate = path.join(editor.home, "may-end");
  const count = "import os, time\nfor i in range(10):\n    print(f'line {i}')\nwhile not os.path.exists(gate):\n    time.sleep(0.1)\nprint('the end')";
  const { folder, window } = await begin(editor, [`gate = ${JSON.stringify(gate)}`, count, "print('typed', 'text')"]);
  await window.connected();
  await window.run(0);
  await window.ran(0);
  await window.type(2, "\nprint('unsaved')");
  await window.run(1);
  await window.shows("line 9");
  await window.page.locator('.explorer-folders-view .monaco-list-row[aria-label^="a.ipynb"]').click();
  await window.page.keyboard.press("F2");
  const input = window.page.locator(".explorer-folders-view input").first();
  await input.fill("renamed.ipynb");
  await input.press("Enter");
  await window.page.locator('.tab[data-resource-name="renamed.ipynb"]').waitFor();
  await window.picture("renamed-while-running");
  await window.show("renamed.ipynb");
  await until("the notebook has its kernel", async () => /busy/.test(await window.status()));
  writeFileSync(gate, "");
  await window.shows("the end");
  await window.ran(1);
  await window.save();
  const cells = readCells(path.join(folder, "renamed.ipynb"));
  assert.equal(textOf(cells[1]), `${Array.from({ length: 10 }, (_, index) => `line ${index}\n`).join("")}the end\n`);
  assert.match(cells[2]?.source ?? "", /unsaved/);
  assert.equal(existsSync(path.join(folder, "a.ipynb")), false);
  await window.close();
});

test("an environment of the folder is offered, and gets ipykernel only after asking", async () => {
  const editor = await sharedEditor();
  const folder = editor.folder("environment");
  const environment = path.join(folder, ".venv");
  execFileSync(python, ["-m", "venv", "--without-pip", environment]);
  const files = (): string[] => readdirSync(environment, { recursive: true, encoding: "utf8" }).sort();
  const before = files();
  writeNotebook(path.join(folder, "a.ipynb"), ["print('not', 'run')"]);
  const window = await editor.open(folder, "a.ipynb");
  await window.connected();
  await window.choose(".venv (environment)", "Jupyter with Agents");
  await until("it is chosen", async () => (await window.kernel()).includes(".venv (environment)"));
  await window.run(0);
  const dialog = window.page.locator(".monaco-dialog-box").filter({ hasText: "has no ipykernel" });
  await dialog.waitFor();
  await window.picture("ask-ipykernel");
  await dialog.getByRole("button", { name: "Cancel" }).click();
  await dialog.waitFor({ state: "detached" });
  assert.deepEqual(files(), before);
  assert.doesNotMatch(await window.outputs(), /not run/);
  await window.close();
});

/** Stands in for the Jupyter extension, which the registry at hand does not have: its id, and a kernel of its own. */
const STAND_IN = `
const vscode = require("vscode");
exports.activate = (context) => {
  const controller = vscode.notebooks.createNotebookController("stand-in", "jupyter-notebook", "Another Kernel");
  controller.executeHandler = async (cells) => {
    for (const cell of cells) {
      const execution = controller.createNotebookCellExecution(cell);
      execution.start();
      await execution.replaceOutput([new vscode.NotebookCellOutput([vscode.NotebookCellOutputItem.text("run by another extension")])]);
      execution.end(true);
    }
  };
  const select = (editor) => editor && vscode.commands.executeCommand("notebook.selectKernel", { notebookEditor: editor, id: "stand-in", extension: "ms-toolsai.jupyter" });
  select(vscode.window.activeNotebookEditor);
  context.subscriptions.push(controller, vscode.window.onDidChangeActiveNotebookEditor(select));
};`;

async function packStandIn(folder: string): Promise<string> {
  mkdirSync(folder);
  const manifest = {
    name: "jupyter", publisher: "ms-toolsai", version: "0.0.1", license: "MIT", engines: { vscode: "^1.105.0" }, main: "./main.js", activationEvents: ["onNotebook:jupyter-notebook"],
  };
  writeFileSync(path.join(folder, "package.json"), JSON.stringify(manifest));
  writeFileSync(path.join(folder, "README.md"), "A stand-in.\n");
  writeFileSync(path.join(folder, "LICENSE"), "None.\n");
  writeFileSync(path.join(folder, "main.js"), STAND_IN);
  const packagePath = path.join(folder, "stand-in.vsix");
  await createVSIX({ cwd: folder, packagePath, dependencies: false, allowMissingRepository: true });
  return packagePath;
}

test("beside the Jupyter extension a notebook is its own, until it is shared on demand", async () => {
  await using editor = await Editor.start({ vsix: findVsix("platform") });
  editor.install(await packStandIn(path.join(editor.home, "stand-in")));
  const folder = editor.folder("beside");
  writeNotebook(path.join(folder, "a.ipynb"), ["print('run by', 'us')"]);
  const window = await editor.open(folder, "a.ipynb");
  const label = window.page.locator(".kernel-label").first();
  await until("our extension is there", async () => (await window.status()) !== "", { seconds: 60 });
  await until("the other kernel is chosen", async () => (await label.innerText()).includes("Another Kernel"));
  await window.run(0);
  await window.shows("run by another extension");
  await window.picture("beside-jupyter");
  assert.deepEqual(editor.processes.find("mcp_server_jupyter"), []);
  await window.command("Jupyter with Agents: Share This Notebook");
  await until("ours is chosen", async () => /Shared with agents|Python 3/.test(await label.innerText()), { seconds: 90 });
  await window.connected();
  await window.run(0);
  await window.shows("run by us");
  await window.close();
});
