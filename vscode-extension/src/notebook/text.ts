/** A place in a text: line and UTF-16 column, both from 0. */
export interface Place {
  readonly line: number;
  readonly character: number;
}

export interface TextEdit {
  readonly start: Place;
  readonly end: Place;
  readonly text: string;
}

const MOST_LINES = 1_500;

/**
 * What turns one text into another, as small as lines and their ends make it, so that cursors stay where they are.
 *
 * Both have `\n` as their line ends. The edits do not overlap; their places are those of the old text.
 */
export function textEdits(before: string, after: string): TextEdit[] {
  if (before === after) return [];
  const [old, now] = [before.split("\n"), after.split("\n")];
  let head = 0;
  while (head < old.length && head < now.length && old[head] === now[head]) head++;
  let tail = 0;
  while (tail < old.length - head && tail < now.length - head && old.at(-1 - tail) === now.at(-1 - tail)) tail++;
  const [left, right] = [old.slice(head, old.length - tail), now.slice(head, now.length - tail)];
  const hunks = left.length * right.length > MOST_LINES ** 2 ? [[0, left.length, 0, right.length] as const] : lineHunks(left, right);
  return hunks.map(([a, b, c, d]) => edit(old, now, head + a, head + b, head + c, head + d));
}

type Hunk = readonly [number, number, number, number];

/** Ranges of lines that differ, by the longest common subsequence. */
function lineHunks(left: readonly string[], right: readonly string[]): Hunk[] {
  const width = right.length + 1;
  const lengths = new Uint16Array((left.length + 1) * width);
  for (let a = left.length - 1; a >= 0; a--) {
    for (let b = right.length - 1; b >= 0; b--) {
      const at = a * width + b;
      lengths[at] = left[a] === right[b] ? (lengths[at + width + 1] ?? 0) + 1 : Math.max(lengths[at + width] ?? 0, lengths[at + 1] ?? 0);
    }
  }
  const hunks: Hunk[] = [];
  let [a, b, fromA, fromB] = [0, 0, 0, 0];
  const close = (): void => {
    if (a > fromA || b > fromB) hunks.push([fromA, a, fromB, b]);
  };
  while (a < left.length && b < right.length) {
    if (left[a] === right[b]) {
      close();
      [a, b] = [a + 1, b + 1];
      [fromA, fromB] = [a, b];
    } else if ((lengths[(a + 1) * width + b] ?? 0) >= (lengths[a * width + b + 1] ?? 0)) a++;
    else b++;
  }
  [a, b] = [left.length, right.length];
  close();
  return hunks;
}

/** One hunk as an edit, without what both begin and end with. */
function edit(old: readonly string[], now: readonly string[], a: number, b: number, c: number, d: number): TextEdit {
  if (a === b) return inserted(old, now, a, c, d);
  if (c === d) return removed(old, a, b);
  const [was, is] = [old.slice(a, b).join("\n"), now.slice(c, d).join("\n")];
  let head = 0;
  while (head < was.length && head < is.length && was[head] === is[head]) head++;
  if (splitsPair(was, head) || splitsPair(is, head)) head--;
  let tail = 0;
  while (tail < was.length - head && tail < is.length - head && was.at(-1 - tail) === is.at(-1 - tail)) tail++;
  if (splitsPair(was, was.length - tail) || splitsPair(is, is.length - tail)) tail--;
  return { start: place(was, head, a), end: place(was, was.length - tail, a), text: is.slice(head, is.length - tail) };
}

function inserted(old: readonly string[], now: readonly string[], a: number, c: number, d: number): TextEdit {
  const text = now.slice(c, d).join("\n");
  if (a < old.length) {
    const start = { line: a, character: 0 };
    return { start, end: start, text: `${text}\n` };
  }
  const end = { line: a - 1, character: old[a - 1]?.length ?? 0 };
  return { start: end, end, text: `\n${text}` };
}

function removed(old: readonly string[], a: number, b: number): TextEdit {
  if (b < old.length) return { start: { line: a, character: 0 }, end: { line: b, character: 0 }, text: "" };
  const end = { line: b - 1, character: old[b - 1]?.length ?? 0 };
  return { start: a > 0 ? { line: a - 1, character: old[a - 1]?.length ?? 0 } : { line: 0, character: 0 }, end, text: "" };
}

function splitsPair(text: string, at: number): boolean {
  const code = text.charCodeAt(at - 1);
  return at > 0 && at < text.length && code >= 0xd800 && code <= 0xdbff;
}

function place(text: string, offset: number, firstLine: number): Place {
  const before = text.slice(0, offset).split("\n");
  return { line: firstLine + before.length - 1, character: before.at(-1)?.length ?? 0 };
}

/** The text after these edits; for tests and for buffers without an editor. */
export function withEdits(text: string, edits: readonly TextEdit[]): string {
  const lines = text.split("\n");
  const starts: number[] = [];
  lines.reduce((at, line) => (starts.push(at), at + line.length + 1), 0);
  const offset = ({ line, character }: Place): number => (starts[line] ?? text.length) + character;
  return edits.toReversed().reduce((done, one) => done.slice(0, offset(one.start)) + one.text + done.slice(offset(one.end)), text);
}
