import { expect, test } from "vitest";
import { type Mover, Moves } from "../src/notebook/moves";
import { movedTo } from "../src/notebook/roots";

interface Document {
  readonly uri: { readonly fsPath: string };
}

const document = (fsPath: string): Document => ({ uri: { fsPath } });

/** Notes what is done with documents, and lets the test say when that has ended. */
class Noted implements Mover<Document> {
  readonly done: string[] = [];
  readonly released: string[] = [];
  finish: Promise<void> = Promise.resolve();
  async hold({ uri }: Document, until: Promise<void>): Promise<void> {
    this.done.push(`hold ${uri.fsPath}`);
    void until.then(() => this.released.push(uri.fsPath));
    await this.finish;
  }
  async moved({ uri }: Document, to: string): Promise<void> {
    this.done.push(`${uri.fsPath} is ${to}`);
    await this.finish;
  }
}

test("a file goes where it is moved to, and where a folder above it is", () => {
  const moved = [{ from: "/w/a.ipynb", to: "/w/b.ipynb" }, { from: "/w/folder", to: "/w/other" }];
  expect(movedTo("/w/a.ipynb", moved)).toBe("/w/b.ipynb");
  expect(movedTo("/w/folder/in/c.ipynb", moved)).toBe("/w/other/in/c.ipynb");
  expect(movedTo("/w/folder-2/c.ipynb", moved)).toBeUndefined();
  expect(movedTo("/w/a.ipynb.bak", moved)).toBeUndefined();
});

test("nothing is written into a notebook from the first word of its move until it has left", async () => {
  const noted = new Noted();
  const moves = new Moves(noted);
  const [one, other] = [document("/w/a.ipynb"), document("/w/c.ipynb")];
  const files = [{ from: "/w/a.ipynb", to: "/w/b.ipynb" }];
  await moves.begin([one, other], files);
  expect(noted.done).toEqual(["hold /w/a.ipynb"]);
  expect(noted.released).toEqual([]);
  await moves.end(files);
  expect(noted.done).toEqual(["hold /w/a.ipynb", "/w/a.ipynb is /w/b.ipynb"]);
  expect(noted.released).toEqual(["/w/a.ipynb"]);
});

test("the document of the new name waits until the old one has left, whichever the editor tells of first", async () => {
  const noted = new Noted();
  const moves = new Moves(noted);
  const one = document("/w/a.ipynb");
  const files = [{ from: "/w/a.ipynb", to: "/w/b.ipynb" }];
  await moves.begin([one], files);
  let finish: () => void = () => undefined;
  noted.finish = new Promise((resolve) => (finish = resolve));
  let hasArrived = 0;
  const arrivals = [moves.arrived("/w/b.ipynb"), moves.arrived("/w/b.ipynb")].map((arrival) => arrival.then(() => hasArrived++));
  const end = moves.end(files);
  const left = moves.left(one);
  await moves.arrived("/w/other.ipynb");
  expect(hasArrived).toBe(0);
  finish();
  await Promise.all([...arrivals, end]);
  expect(await left).toBe(false);
  expect(noted.done).toEqual(["hold /w/a.ipynb", "/w/a.ipynb is /w/b.ipynb"]);
});

test("a move that has failed leaves the notebook where it was", async () => {
  const noted = new Noted();
  const moves = new Moves(noted, 1);
  const one = document("/w/a.ipynb");
  await moves.begin([one], [{ from: "/w/a.ipynb", to: "/w/b.ipynb" }]);
  await expect.poll(() => noted.released, { timeout: 60_000 }).toEqual(["/w/a.ipynb"]);
  expect(moves.isMoving(one)).toBe(false);
  expect(await moves.left(one)).toBe(false);
  expect(noted.done).toEqual(["hold /w/a.ipynb"]);
});
