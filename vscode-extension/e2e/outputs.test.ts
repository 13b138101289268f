/** Outputs that are large or rich. */
import assert from "node:assert/strict";
import { test } from "node:test";
import { readCells, textOf } from "./support/notebooks.ts";
import { begin, sharedEditor } from "./support/shared.ts";
import { until } from "./support/wait.ts";

test("100,000 lines come whole, and the next cell runs at once", async () => {
  const editor = await sharedEditor();
  const { file, window } = await begin(editor, ["print('after', 'that')", "for i in range(100_000):\n    print('line', i)"]);
  await window.connected();
  await window.run(1);
  await until("the cell is done", async () => (await window.cell(1).locator(".codicon-notebook-state-success").count()) > 0, { seconds: 60 });
  await window.run(0);
  await window.shows("after that");
  await window.picture("many-lines");
  await window.save();
  const text = textOf(readCells(file)[1]);
  assert.equal(text.split("\n").length, 100_001);
  assert.ok(text.endsWith("line 99999\n"));
  await window.close();
});

test("what plotly shows is a picture's data with a text beside it, never a blank", async () => {
  const editor = await sharedEditor();
  // As plotly's own renderer in Jupyter sends it: a bundle whose first type the editor may not know.
  const show = [
    "from IPython.display import display",
    "import os",
    "figure = {'data': [{'type': 'scatter', 'y': [1, 3, 2]}], 'layout': {'title': {'text': 'A figure'}}}",
    "display({'application/vnd.plotly.v1+json': figure, 'text/html': '<b>a plotly figure</b>', 'text/plain': 'Figure()'}, raw=True)",
    "print(sorted(name for name in os.environ if name.startswith(('VSCODE_', 'ELECTRON_')) or name == 'NODE_OPTIONS'))",
  ];
  const { file, window } = await begin(editor, [show.join("\n")]);
  await window.connected();
  await window.run(0);
  await window.shows(/a plotly figure|A figure/);
  await window.picture("plotly");
  await window.save();
  const [display, printed] = readCells(file)[0]?.outputs ?? [];
  assert.deepEqual(Object.keys(display?.data ?? {}).sort(), ["application/vnd.plotly.v1+json", "text/html", "text/plain"]);
  assert.equal([printed?.text].flat().join(""), "[]\n", "kernels inherit no variable of the editor");
  await window.close();
});
