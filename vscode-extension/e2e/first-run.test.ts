/** From installing the extension to the first output, without any network. */
import assert from "node:assert/strict";
import path from "node:path";
import { test } from "node:test";
import { Editor, offline } from "./support/editor.ts";
import { readCells, textOf, writeNotebook } from "./support/notebooks.ts";
import { findVsix } from "./support/places.ts";

test("the first cell runs without a network, in an environment of the extension's own", async () => {
  await using editor = await Editor.start({ vsix: findVsix("platform"), environment: offline });
  const folder = editor.folder("first");
  const file = path.join(folder, "a.ipynb");
  writeNotebook(file, ["x = 20 + 1", "print('the answer is', x * 2)"]);
  const window = await editor.open(folder, "a.ipynb");
  await window.run(0);
  await window.run(1);
  await window.shows("the answer is 42", 90);
  await window.picture("first-run");
  await window.save();
  const [first, second] = readCells(file);
  assert.equal(first?.execution_count, 1);
  assert.equal(second?.execution_count, 2);
  assert.equal(textOf(second), "the answer is 42\n");
});
