import { createHash } from "node:crypto";
import type { CellType, CellValue, JsonObject, Op } from "../server/protocol";

/** A cell as this module compares it: what a person or an agent edits. Outputs only where they are to be told. */
export interface Cell {
  readonly id: string;
  readonly cell_type: CellType;
  readonly source: string;
  readonly metadata: JsonObject;
  readonly attachments?: JsonObject;
}

export interface Sheet {
  readonly cells: readonly Cell[];
  readonly metadata: JsonObject;
}

/** An edit that does not fit the notebook as it stands. */
export class DoesNotFit extends Error {
  override readonly name = "DoesNotFit";
}

/** 12 hex digits that change with a cell's type or source: the server's hash of a cell. */
export function cellHash(cell: Pick<Cell, "cell_type" | "source">): string {
  return createHash("sha256").update(utf8(`${cell.cell_type}\0${cell.source}`)).digest("hex").slice(0, 12);
}

/** UTF-8 that keeps half a surrogate pair, as the server's does; Node's own would write U+FFFD. */
function utf8(text: string): Buffer {
  if (!/\p{Surrogate}/u.test(text)) return Buffer.from(text, "utf8");
  const parts = text.split(/([\ud800-\udbff](?![\udc00-\udfff])|(?<![\ud800-\udbff])[\udc00-\udfff])/);
  return Buffer.concat(parts.map((part, at) => (at % 2 === 0 ? Buffer.from(part, "utf8") : half(part.charCodeAt(0)))));
}

function half(code: number): Buffer {
  return Buffer.from([0xe0 | (code >> 12), 0x80 | ((code >> 6) & 0x3f), 0x80 | (code & 0x3f)]);
}

/** What leads from one state of a notebook to another, one op after the other. */
export function difference(before: Sheet, after: Sheet): Op[] {
  const ops: Op[] = [];
  const kept = new Set(after.cells.map((cell) => cell.id));
  const old = new Map(before.cells.map((cell) => [cell.id, cell]));
  for (const cell of before.cells) if (!kept.has(cell.id)) ops.push({ op: "delete", id: cell.id, hash: cellHash(cell) });
  const order = before.cells.map((cell) => cell.id).filter((id) => kept.has(id));
  // Cells of the longest run that keeps its order stay; the fewest others are told as moved.
  const stay = longestRising(order, new Map(after.cells.map((cell, at) => [cell.id, at])));
  after.cells.forEach((cell, index) => {
    if (!old.has(cell.id)) {
      ops.push({ op: "insert", index, cell: newValue(cell) });
      order.splice(index, 0, cell.id);
    } else if (order[index] !== cell.id && !stay.has(cell.id)) {
      ops.push({ op: "move", id: cell.id, index });
      order.splice(order.indexOf(cell.id), 1);
      order.splice(index, 0, cell.id);
    }
  });
  // A cell that stays may still stand after ones that wait for their turn to move: mend what is left, in order.
  after.cells.forEach((cell, index) => {
    if (order[index] === cell.id) return;
    ops.push({ op: "move", id: cell.id, index });
    order.splice(order.indexOf(cell.id), 1);
    order.splice(index, 0, cell.id);
  });
  for (const cell of after.cells) {
    const was = old.get(cell.id);
    if (was !== undefined) ops.push(...cellDifference(was, cell));
  }
  if (!same(before.metadata, after.metadata)) ops.push({ op: "metadata", id: null, metadata: after.metadata });
  return ops;
}

function cellDifference(was: Cell, is: Cell): Op[] {
  const ops: Op[] = [];
  let hash = cellHash(was);
  if (was.cell_type !== is.cell_type) {
    ops.push({ op: "type", id: is.id, hash, cell_type: is.cell_type });
    hash = cellHash({ cell_type: is.cell_type, source: was.source });
  }
  if (was.source !== is.source) ops.push({ op: "source", id: is.id, hash, source: is.source });
  if (!same(was.metadata, is.metadata)) ops.push({ op: "metadata", id: is.id, metadata: is.metadata });
  return ops;
}

function newValue(cell: Cell): CellValue {
  const code = cell.cell_type === "code" ? { execution_count: null, outputs: [] } : {};
  return { ...cell, ...code };
}

/**
 * The notebook after these ops. Outputs are not part of it.
 *
 * @throws DoesNotFit when a hash is another, a cell is not there, or an index is out of range.
 */
export function applied(sheet: Sheet, ops: readonly Op[]): Sheet {
  const cells = [...sheet.cells];
  let { metadata } = sheet;
  const find = (id: string, hash?: string): number => {
    const index = cells.findIndex((cell) => cell.id === id);
    const cell = cells[index];
    if (cell === undefined) throw new DoesNotFit(`There is no cell ${id}.`);
    if (hash !== undefined && hash !== cellHash(cell)) throw new DoesNotFit(`Cell ${id} has changed.`);
    return index;
  };
  const change = (id: string, hash: string | undefined, values: Partial<Cell>): void => {
    const index = find(id, hash);
    cells[index] = { ...(cells[index] as Cell), ...values };
  };
  for (const op of ops) {
    if (op.op === "insert") {
      inRange(op.index, cells.length);
      if (cells.some((cell) => cell.id === op.cell.id)) throw new DoesNotFit(`Cell ${op.cell.id} is there already.`);
      cells.splice(op.index, 0, plain(op.cell));
    } else if (op.op === "delete") {
      cells.splice(find(op.id, op.hash), 1);
    } else if (op.op === "move") {
      const [cell] = cells.splice(find(op.id), 1);
      inRange(op.index, cells.length);
      cells.splice(op.index, 0, cell as Cell);
    } else if (op.op === "source") {
      change(op.id, op.hash, { source: op.source });
    } else if (op.op === "type") {
      change(op.id, op.hash, { cell_type: op.cell_type });
    } else if (op.op === "outputs") {
      find(op.id);
    } else if (op.id === null) {
      ({ metadata } = op);
    } else {
      change(op.id, undefined, { metadata: op.metadata });
    }
  }
  return { cells, metadata };
}

function plain(cell: CellValue): Cell {
  const { id, cell_type, source, metadata, attachments } = cell;
  return attachments === undefined ? { id, cell_type, source, metadata } : { id, cell_type, source, metadata, attachments };
}

function inRange(index: number, most: number): void {
  if (!Number.isInteger(index) || index < 0 || index > most) throw new DoesNotFit(`There is no position ${String(index)}.`);
}

/** Cells `start` to `end` of the notebook as it was are replaced by these. */
export interface Splice {
  readonly start: number;
  readonly end: number;
  readonly cells: readonly Cell[];
}

/** The fewest cells to put in and take out; a cell that keeps its place and type is not touched. */
export function splices(before: readonly Cell[], after: readonly Cell[]): Splice[] {
  const key = (cell: Cell): string => `${cell.cell_type}:${cell.id}`;
  const places = new Map(after.map((cell, at) => [key(cell), at]));
  const order = before.map(key).filter((one) => places.has(one));
  const stay = longestRising(order, places);
  const found: Splice[] = [];
  let [start, from] = [0, 0];
  const close = (end: number, to: number): void => {
    if (end > start || to > from) found.push({ start, end, cells: after.slice(from, to) });
  };
  before.forEach((cell, at) => {
    if (!stay.has(key(cell))) return;
    const to = places.get(key(cell)) ?? 0;
    close(at, to);
    [start, from] = [at + 1, to + 1];
  });
  close(before.length, after.length);
  return found;
}

/** The ids of the longest run whose places rise (patience sorting). */
function longestRising(ids: readonly string[], places: ReadonlyMap<string, number>): Set<string> {
  const tails: number[] = [];
  const previous: number[] = [];
  const place = (at: number): number => places.get(ids[at] ?? "") ?? -1;
  ids.forEach((_, at) => {
    let [low, high] = [0, tails.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (place(tails[middle] ?? 0) < place(at)) low = middle + 1;
      else high = middle;
    }
    previous[at] = low > 0 ? (tails[low - 1] ?? -1) : -1;
    tails[low] = at;
  });
  const run = new Set<string>();
  for (let at = tails.at(-1) ?? -1; at >= 0; at = previous[at] ?? -1) run.add(ids[at] ?? "");
  return run;
}

/** Equal as JSON, whatever the order of keys. */
export function same(one: unknown, other: unknown): boolean {
  if (one === other) return true;
  if (typeof one !== "object" || typeof other !== "object" || one === null || other === null) return false;
  if (Array.isArray(one) !== Array.isArray(other)) return false;
  const [left, right] = [one as Record<string, unknown>, other as Record<string, unknown>];
  const names = Object.keys(left);
  return names.length === Object.keys(right).length && names.every((name) => name in right && same(left[name], right[name]));
}
