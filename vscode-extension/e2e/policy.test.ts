/** What agents may do: the person is asked, denies, pauses them; an untrusted folder gives them nothing. */
import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { Agent } from "./support/agent.ts";
import { Editor } from "./support/editor.ts";
import { writeNotebook } from "./support/notebooks.ts";
import { findVsix } from "./support/places.ts";
import { begin, sharedEditor } from "./support/shared.ts";
import { until } from "./support/wait.ts";

const TITLE = "Jupyter with Agents";

test("an agent's run waits for the person, who approves one and denies another", async () => {
  const editor = await sharedEditor();
  const { folder, window } = await begin(editor, ["1"]);
  await window.connected();
  await window.command(`${TITLE}: Choose What Agents May Run`);
  await window.pick("Ask");
  await window.pick("In This Notebook");
  await window.toast(/What agents run in a\.ipynb/);
  using agent = await Agent.start(editor, folder);
  const approved = agent.call("append_execute_code_cell", { notebook_path: "a.ipynb", cell_source: "print('was', 'approved')" });
  await window.toast(/agent.* asks to run/);
  await window.picture("agent-asks");
  await window.answer(/asks to run/, "Approve");
  assert.match((await approved).text, /was approved/);
  await window.shows("was approved");
  const denied = agent.call("append_execute_code_cell", { notebook_path: "a.ipynb", cell_source: "print('was', 'denied')" });
  await window.answer(/asks to run.*denied/, "Deny");
  const told = await denied;
  assert.match(told.text, /den(y|ied)/i);
  assert.doesNotMatch(await window.outputs(), /was denied/);
  await window.close();
});

test("in an untrusted folder nothing is installed, started or run", async () => {
  await using editor = await Editor.start({
    vsix: findVsix("universal"),
    settings: {
      "security.workspace.trust.enabled": true,
      "security.workspace.trust.startupPrompt": "never",
      "security.workspace.trust.emptyWindow": false,
    },
  });
  const folder = editor.folder("untrusted");
  writeNotebook(path.join(folder, "a.ipynb"), ["open('ran', 'w')"]);
  const window = await editor.open(folder, "a.ipynb");
  await until("the status says so", async () => /not trusted/.test(await window.status()));
  await window.picture("untrusted");
  const offered = await window.commands("Jupyter with Agents");
  assert.deepEqual(offered.filter((title) => /Set Up|Pause|Copy MCP|Restart/.test(title)), []);
  assert.deepEqual(editor.processes.find("mcp_server_jupyter"), []);
  assert.deepEqual(editor.processes.find("pip"), []);
});
