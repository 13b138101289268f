import { expect, test } from "vitest";
import { coalesced, parsed, shown, WIDGET } from "../src/notebook/outputs";
import { toNotebook, withCell } from "../src/notebook/nbformat";
import type { Output, OutputOp } from "../src/server/protocol";

const OUTPUTS: Output[] = [
  { output_type: "stream", name: "stdout", text: "a\n" },
  { output_type: "stream", name: "stderr", text: "careful\n" },
  { output_type: "error", ename: "ValueError", evalue: "no", traceback: ["\u001b[31mValueError", "no"] },
  { output_type: "display_data", data: { "image/png": "iVBORw0KGgo=", "text/plain": "<Figure>" }, metadata: { width: 3 } },
  { output_type: "execute_result", data: { "application/json": { a: [1] }, "text/html": "<b>1</b>" }, metadata: {}, execution_count: 4 },
];

test("outputs come back from the editor as they went in", () => {
  expect(OUTPUTS.map((output) => parsed(shown(output)))).toEqual(OUTPUTS);
});

test("the richest representation comes first", () => {
  const mimes = shown({ output_type: "display_data", data: { "text/plain": "x", "image/png": "", "text/html": "<i>x</i>" } }).items;
  expect(mimes.map((item) => item.mime)).toEqual(["text/html", "image/png", "text/plain"]);
});

test("a widget is never a blank", () => {
  const { items } = shown({ output_type: "display_data", data: { [WIDGET]: { model_id: "x" } } });
  expect(items.map((item) => item.mime)).toEqual([WIDGET, "text/plain"]);
});

test("a picture is bytes, not the text of its base64", () => {
  const [image] = shown({ output_type: "display_data", data: { "image/png": ["iVBO", "Rw0KGgo="] } }).items;
  expect([...(image?.data ?? [])].slice(0, 4)).toEqual([0x89, 0x50, 0x4e, 0x47]);
});

test("streamed text of many ops is one op", () => {
  const ops: OutputOp[] = Array.from({ length: 1_000 }, (_, at) => ({ op: "text", index: 0, text: `${String(at)}\n` }));
  expect(coalesced([{ op: "append", output: OUTPUTS[0]! }, ...ops])).toHaveLength(2);
});

test("what comes before a clear is never shown", () => {
  const ops: OutputOp[] = [{ op: "append", output: OUTPUTS[0]! }, { op: "clear" }, { op: "append", output: OUTPUTS[1]! }];
  expect(coalesced(ops)).toEqual(ops.slice(1));
});

test("of several replacements of one output the last is kept, and text for another is not mixed in", () => {
  const replace = (text: string): OutputOp => ({ op: "replace", index: 1, output: { output_type: "stream", name: "stdout", text } });
  expect(coalesced([replace("1"), replace("2"), { op: "text", index: 0, text: "x" }, { op: "text", index: 2, text: "y" }])).toHaveLength(3);
});

test("a document with unsaved changes is told as a whole notebook", () => {
  const cell = { isMarkup: false, languageId: "python", text: "1\r\n2", metadata: { id: "a", metadata: { tags: ["x"] } }, outputs: [shown(OUTPUTS[0]!)], executionOrder: 3 };
  expect(toNotebook({ nbformat: 4, nbformat_minor: 5, metadata: { kernelspec: { name: "python3" } } }, [cell], ["a"])).toEqual({
    nbformat: 4,
    nbformat_minor: 5,
    metadata: { kernelspec: { name: "python3" } },
    cells: [{ id: "a", cell_type: "code", source: "1\n2", metadata: { tags: ["x"] }, execution_count: 3, outputs: [OUTPUTS[0]] }],
  });
});

test("a cell's new metadata leaves the editor's own beside it", () => {
  expect(withCell({ id: "a", metadata: {}, execution_count: 2 }, { id: "a", metadata: { tags: [] } }, true)).toEqual({
    id: "a", metadata: { tags: [] }, execution_count: 2,
  });
});
