/** The harness itself: VS Code without our extension. */
import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { Editor } from "./support/editor.ts";
import { readCells, writeNotebook } from "./support/notebooks.ts";

test("a notebook opens, is typed into, saved and closed, and nothing stays behind", async () => {
  let left;
  {
    await using editor = await Editor.start({ vsix: null });
    left = editor.processes;
    const folder = editor.folder("one");
    writeNotebook(path.join(folder, "a.ipynb"), ["# %md\n# Title", "x = 1"]);
    const window = await editor.open(folder, "a.ipynb");
    await window.type(1, " + 2");
    assert.equal(await window.source(1), "x = 1 + 2");
    assert.ok(await window.isDirty());
    await window.picture("harness");
    await window.save();
    assert.equal(readCells(path.join(folder, "a.ipynb"))[1]?.source, "x = 1 + 2");
  }
  assert.deepEqual(left.list(), []);
});
