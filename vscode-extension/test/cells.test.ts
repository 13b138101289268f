import { expect, test } from "vitest";
import { applied, type Cell, cellHash, difference, DoesNotFit, same, type Sheet, splices } from "../src/notebook/cells";
import { Chance } from "./random";

function cell(id: string, source = "", cell_type: Cell["cell_type"] = "code", metadata = {}): Cell {
  return { id, cell_type, source, metadata };
}

function sheet(...cells: Cell[]): Sheet {
  return { cells, metadata: {} };
}

test("a hash is the server's: SHA-256 over type, NUL and source", () => {
  expect(cellHash(cell("a", "1 + 1"))).toBe("b148aa9cb416");
  expect(cellHash(cell("a", "é\ud800"))).toBe("7ea9c1ef1473");
});

test("an unchanged notebook is told by nothing", () => {
  expect(difference(sheet(cell("a"), cell("b")), sheet(cell("a"), cell("b")))).toEqual([]);
});

test("one cell that is moved is one op", () => {
  const before = sheet(cell("a"), cell("b"), cell("c"), cell("d"));
  expect(difference(before, sheet(cell("d"), cell("a"), cell("b"), cell("c")))).toEqual([{ op: "move", id: "d", index: 0 }]);
});

test("a deletion names what was deleted by its hash", () => {
  const gone = cell("a", "x = 1");
  expect(difference(sheet(gone, cell("b")), sheet(cell("b")))).toEqual([{ op: "delete", id: "a", hash: cellHash(gone) }]);
});

test("a cell that changes its type and source tells the second over the first", () => {
  const [was, is] = [cell("a", "x"), cell("a", "# x", "markdown")];
  const ops = difference(sheet(was), sheet(is));
  expect(ops.map((op) => op.op)).toEqual(["type", "source"]);
  expect(applied(sheet(was), ops)).toEqual(sheet(is));
});

test("an edit for another source, a missing cell or no position is refused", () => {
  const now = sheet(cell("a", "new"));
  const old = cellHash(cell("a", "old"));
  expect(() => applied(now, [{ op: "source", id: "a", hash: old, source: "x" }])).toThrow(DoesNotFit);
  expect(() => applied(now, [{ op: "delete", id: "b" }])).toThrow(DoesNotFit);
  expect(() => applied(now, [{ op: "insert", index: 2, cell: { ...cell("c") } }])).toThrow(DoesNotFit);
  expect(() => applied(now, [{ op: "insert", index: 0, cell: { ...cell("a") } }])).toThrow(DoesNotFit);
});

function shuffled(chance: Chance, from: Sheet): Sheet {
  const cells = [...from.cells];
  for (let step = chance.below(6); step >= 0; step--) {
    const at = chance.below(cells.length + 1);
    const choice = chance.below(5);
    if (choice === 0 || cells.length === 0) cells.splice(at, 0, cell(`n${String(chance.below(1e9))}`, chance.of(["", "a\nb"])));
    else if (choice === 1) cells.splice(chance.below(cells.length), 1);
    else if (choice === 2) cells.splice(at % cells.length, 0, ...cells.splice(chance.below(cells.length), 1));
    else {
      const index = chance.below(cells.length);
      const one = cells[index]!;
      if (choice === 3) cells[index] = { ...one, source: `${one.source}${chance.of(["x", "\n", "é"])}` };
      else cells[index] = { ...one, cell_type: chance.of(["code", "markdown", "raw"]), metadata: { tag: chance.below(3) } };
    }
  }
  return { cells, metadata: chance.of([from.metadata, { kernelspec: { name: "python3" } }]) };
}

test("what is told of any change makes the one notebook of the other", () => {
  const chance = new Chance(7);
  let before = sheet(...Array.from({ length: 8 }, (_, at) => cell(`c${String(at)}`)));
  for (let round = 0; round < 2_000; round++) {
    const after = shuffled(chance, before);
    expect(applied(before, difference(before, after))).toEqual(after);
    before = after.cells.length > 30 ? sheet(...after.cells.slice(0, 5)) : after;
  }
});

test("the splices of any change put every cell in its place and touch none that keeps it", () => {
  const chance = new Chance(11);
  for (let round = 0; round < 1_000; round++) {
    const before = sheet(...Array.from({ length: 6 }, (_, at) => cell(`c${String(at)}`)));
    const after = shuffled(chance, before);
    const result = [...before.cells];
    for (const { start, end, cells } of splices(before.cells, after.cells).toReversed()) result.splice(start, end - start, ...cells);
    expect(result.map((one) => `${one.cell_type}${one.id}`)).toEqual(after.cells.map((one) => `${one.cell_type}${one.id}`));
  }
  expect(splices([cell("a"), cell("b"), cell("c")], [cell("a"), cell("x"), cell("b"), cell("c")])).toEqual([
    { start: 1, end: 1, cells: [cell("x")] },
  ]);
});

test("values are the same whatever the order of their keys", () => {
  expect(same({ a: 1, b: [1, { c: null }] }, { b: [1, { c: null }], a: 1 })).toBe(true);
  expect(same({ a: 1 }, { b: 1 })).toBe(false);
  expect(same([], {})).toBe(false);
});
