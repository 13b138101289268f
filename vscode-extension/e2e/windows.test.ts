/** Two windows of one notebook, and a server that is killed below one. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { readCells, textOf } from "./support/notebooks.ts";
import { kill } from "./support/processes.ts";
import { begin, sharedEditor } from "./support/shared.ts";
import { until } from "./support/wait.ts";

const COUNT = "import time\nfor i in range(20):\n    print(f'line {i:02}')\n    time.sleep(0.3)\nprint('the end')";
const lines = `${Array.from({ length: 20 }, (_, index) => `line ${String(index).padStart(2, "0")}\n`).join("")}the end\n`;

test("two windows show one notebook's runs, and the second inherits it", async () => {
  const editor = await sharedEditor();
  const { folder, file, window } = await begin(editor, ["print('from', 'the first')", "print('from', 'the second')"]);
  const other = await editor.open(folder, "a.ipynb");
  await other.connected();
  await window.connected();
  await window.run(0);
  await window.shows("from the first");
  await other.shows("from the first");
  await other.run(1);
  await window.shows("from the second");
  for (const shown of [window, other]) {
    await shown.ran(0);
    await shown.ran(1);
  }
  await window.picture("two-windows");
  await window.save();
  await window.close();
  await until("the second window may save", async () => {
    await other.save();
    return readCells(file).every((cell) => textOf(cell).startsWith("from the"));
  });
  await other.close();
});

test("a server that is killed in mid-cell is started again, and the output is complete", async () => {
  const editor = await sharedEditor();
  const { folder, file, window } = await begin(editor, [COUNT, "print('i is', i)"]);
  await window.run(0);
  await window.shows("line 05");
  const [server] = editor.processes.find("mcp_server_jupyter", "serve", folder);
  assert.ok(server, "the folder's server runs");
  kill(server.pid);
  await window.shows("the end");
  await window.run(1);
  await window.shows("i is 19");
  await window.picture("server-killed");
  await window.save();
  assert.equal(textOf(readCells(file)[0]), lines);
  await window.close();
});

