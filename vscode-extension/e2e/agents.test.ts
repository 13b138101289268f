/** Agents that may not run, and that are paused. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { Agent } from "./support/agent.ts";
import { readCells } from "./support/notebooks.ts";
import { begin, sharedEditor } from "./support/shared.ts";
import { until } from "./support/wait.ts";

const TITLE = "Jupyter with Agents";

test("agents that are denied runs still read and edit", async () => {
  const editor = await sharedEditor();
  const { folder, window } = await begin(editor, ["a = 1"]);
  await window.connected();
  await window.command(`${TITLE}: Choose What Agents May Run`);
  await window.pick("Deny");
  await window.pick("In This Notebook");
  await window.toast(/What agents run in a\.ipynb/);
  using agent = await Agent.start(editor, folder);
  await until("the run is refused", async () => (await agent.call("execute_code", { notebook_path: "a.ipynb", code: "1" })).isError);
  const edit = await agent.call("overwrite_cell_source", { notebook_path: "a.ipynb", cell_index: 0, cell_source: "a = 2" });
  assert.equal(edit.isError, false, edit.text);
  await until("the edit shows", async () => (await window.source(0)) === "a = 2");
  await window.close();
});

test("paused agents change and run nothing until they may go on; what runs goes on", async () => {
  const editor = await sharedEditor();
  const { folder, file, window } = await begin(editor, ["import time\ntime.sleep(3)\nprint('went', 'on')", "b = 1"]);
  await window.connected();
  await window.run(0);
  await window.command(`${TITLE}: Pause or Resume Agents`);
  await window.toast("Agents are paused");
  await window.picture("agents-paused");
  using agent = await Agent.start(editor, folder);
  const args = { notebook_path: "a.ipynb", cell_index: 1, cell_source: "b = 2" };
  const refused = await agent.call("overwrite_cell_source", args);
  assert.equal(refused.isError, true);
  assert.match(refused.text, /pause/i);
  assert.equal((await agent.call("execute_code", { notebook_path: "a.ipynb", code: "1" })).isError, true);
  await window.shows("went on");
  await window.command(`${TITLE}: Pause or Resume Agents`);
  await window.toast("Agents may go on");
  assert.equal((await agent.call("overwrite_cell_source", args)).isError, false);
  await until("the edit is saved", async () => {
    if (await window.isDirty()) await window.save();
    return readCells(file)[1]?.source === "b = 2";
  });
  await window.close();
});

