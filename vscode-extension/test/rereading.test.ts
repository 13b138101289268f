import { expect, test } from "vitest";
import { type DocCell, hasOnlyRunsOf } from "../src/notebook/nbformat";

const cell = (text: string, executionOrder?: number): DocCell => ({ isMarkup: false, languageId: "python", text, metadata: {}, outputs: [], executionOrder });
const file = (...cells: object[]): string => JSON.stringify({ cells, nbformat: 4, nbformat_minor: 5 });
const saved = (source: string | string[], execution_count: number | null = null): object => ({ cell_type: "code", source, execution_count });

test("a file with the same cells and runs takes nothing away", () => {
  expect(hasOnlyRunsOf([cell("a\r\nb", 2), cell("c")], file(saved(["a\n", "b"], 2), saved("c", 3)))).toBe(true);
});

test("what was typed, run, moved or retyped here alone is not given up for a file", () => {
  expect(hasOnlyRunsOf([cell("typed")], file(saved("a")))).toBe(false);
  expect(hasOnlyRunsOf([cell("a", 3)], file(saved("a", 2)))).toBe(false);
  expect(hasOnlyRunsOf([cell("a", 1)], file(saved("a")))).toBe(false);
  expect(hasOnlyRunsOf([cell("a"), cell("b")], file(saved("b"), saved("a")))).toBe(false);
  expect(hasOnlyRunsOf([cell("a"), cell("b")], file(saved("a")))).toBe(false);
  expect(hasOnlyRunsOf([{ ...cell("a"), isMarkup: true }], file(saved("a")))).toBe(false);
});

test("a file that is being written, or is none, is left alone", () => {
  expect(hasOnlyRunsOf([cell("a")], '{"cells": [')).toBe(false);
  expect(hasOnlyRunsOf([cell("a")], "{}")).toBe(false);
});
