/** Stopping what no kernel has taken yet, and questions that another window answers. */
import assert from "node:assert/strict";
import { mkdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { Agent } from "../support/agent.ts";
import { writeNotebook } from "../support/notebooks.ts";
import { python } from "../support/places.ts";
import { begin, sharedEditor } from "../support/shared.ts";
import { until } from "../support/wait.ts";

const TITLE = "Jupyter with Agents";

/** A kernel that starts once a file is there. */
const LATE = `
import os, sys, time
gate = sys.argv.pop(1)
while not os.path.exists(gate):
    time.sleep(0.1)
from ipykernel.kernelapp import launch_new_instance
launch_new_instance()
`;

test("a cell that is stopped while its kernel starts does not run, and the next one does", async () => {
  const editor = await sharedEditor();
  const gate = path.join(editor.home, "kernel-may-start");
  const folder = path.join(editor.home, "home/.local/share/jupyter/kernels/late");
  mkdirSync(folder, { recursive: true });
  const argv = [python, "-c", LATE, gate, "-f", "{connection_file}"];
  writeFileSync(path.join(folder, "kernel.json"), JSON.stringify({ argv, display_name: "Late", language: "python" }));
  const root = editor.folder("stopping");
  const file = path.join(root, "a.ipynb");
  writeNotebook(file, ["open('first', 'w').close()", "import os\nprint('first ran:', os.path.exists('first'))"]);
  writeFileSync(file, readFileSync(file, "utf8").replace('"python3"', '"late"'));
  const window = await editor.open(root, "a.ipynb");
  await window.connected();
  await window.run(0);
  await until("the kernel is starting", async () => /starting/.test(await window.status()));
  await window.cell(0).hover();
  await window.cell(0).locator(".run-button-container .codicon-notebook-stop").first().click();
  await until("the cell is not running", async () => (await window.cell(0).locator(".codicon-notebook-stop").count()) === 0);
  assert.equal(await window.page.locator(".notification-toast").filter({ hasText: "has no kernel" }).count(), 0);
  await window.picture("stopped-while-starting");
  writeFileSync(gate, "");
  await window.run(1);
  await window.shows("first ran: False", 120);
  await window.close();
});

test("a question is in every window, and the answer of one takes it from the others", async () => {
  const editor = await sharedEditor();
  const { folder, window } = await begin(editor, ["1"]);
  const other = await editor.open(folder, "a.ipynb");
  await window.connected();
  await other.connected();
  await window.command(`${TITLE}: Choose What Agents May Run`);
  await window.pick("Ask");
  await window.pick("In This Notebook");
  await window.toast(/What agents run in a\.ipynb/);
  using agent = await Agent.start(editor, folder);
  const asked = agent.call("append_execute_code_cell", { notebook_path: "a.ipynb", cell_source: "print('by', 'the other window')" });
  await window.toast(/asks to run/);
  await until("the first window says so", async () => /an agent asks/.test(await window.status()));
  await other.answer(/asks to run/, "Approve");
  assert.match((await asked).text, /by the other window/);
  await window.shows("by the other window");
  await until("the first window asks no more", async () => !/an agent asks/.test(await window.status()));
  // The message that is left there answers nothing any more.
  await window.answer(/asks to run/, "Deny");
  await window.picture("answered-elsewhere");
  await window.save();
  await window.close();
  await other.close();
});
