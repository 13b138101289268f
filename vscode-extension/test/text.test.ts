import { expect, test } from "vitest";
import { textEdits, withEdits } from "../src/notebook/text";
import { Chance } from "./random";

test("a changed word is the only thing replaced", () => {
  expect(textEdits("import os\nx = 1\n", "import os\nx = 12\n")).toEqual([
    { start: { line: 1, character: 5 }, end: { line: 1, character: 5 }, text: "2" },
  ]);
});

test("two changes far apart leave the lines between alone", () => {
  const edits = textEdits("a = 1\nkeep\nkeep too\nb = 2", "a = 9\nkeep\nkeep too\nb = 8");
  expect(edits.map((edit) => [edit.start.line, edit.text])).toEqual([[0, "9"], [3, "8"]]);
});

test("a pair of surrogates is never cut in two", () => {
  const [edit] = textEdits("x😀y", "x😁y");
  expect(edit?.text).toBe("😁");
});

test("edits make the new text of the old, whatever both are", () => {
  const chance = new Chance(3);
  const text = (): string => Array.from({ length: chance.below(8) }, () => chance.of(["a", "b", "ab", "", "😀", "x\u0301"])).join("\n");
  for (let round = 0; round < 5_000; round++) {
    const [before, after] = [text(), text()];
    expect(withEdits(before, textEdits(before, after)), JSON.stringify([before, after])).toBe(after);
  }
});

test("a text of many lines that is all new is replaced whole, at once", () => {
  const before = Array.from({ length: 3_000 }, (_, at) => `a${String(at)}`).join("\n");
  const after = Array.from({ length: 3_000 }, (_, at) => `b${String(at)}`).join("\n");
  expect(withEdits(before, textEdits(before, after))).toBe(after);
});
