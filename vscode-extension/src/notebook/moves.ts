import { movedTo, type FileMove } from "./roots";

/** What is done with a notebook that is moved while it is open. */
export interface Mover<D> {
  /** Write nothing into it before this is resolved; returns once what was under way is done. */
  hold(document: D, until: Promise<void>): Promise<void>;
  /** It is gone; the editor opens, or has opened, another document with what is in it by its new path. */
  moved(document: D, to: string): Promise<void>;
}

const PATIENCE = 10_000;
const MOST_WAITED = 2_000;

/**
 * Follows notebooks that are moved while they are open. The editor gives what is unsaved to a document of the new name,
 * and then closes the old one: whatever is written into that one meanwhile keeps it, unsaved, as a file that is not
 * there. So nothing is written into it from the first word of the move to the last.
 */
export class Moves<D extends { readonly uri: { readonly fsPath: string } }> {
  private readonly moving = new Map<D, { readonly to: string; readonly release: () => void; readonly timer: NodeJS.Timeout }>();
  private readonly ending = new Map<string, Promise<void>>();

  constructor(
    private readonly mover: Mover<D>,
    private readonly patience = PATIENCE,
  ) {}

  /** Files are about to be moved; returns once they may be. */
  async begin(open: Iterable<D>, files: readonly FileMove[]): Promise<void> {
    const held: Promise<void>[] = [];
    for (const document of open) {
      const to = movedTo(document.uri.fsPath, files);
      if (to === undefined) continue;
      this.giveUp(document);
      let release: () => void = () => undefined;
      const until = new Promise<void>((resolve) => (release = resolve));
      // Nobody tells of a move that has failed.
      const timer = setTimeout(() => this.giveUp(document), this.patience);
      this.moving.set(document, { to, release, timer });
      held.push(this.mover.hold(document, until));
    }
    let timer: NodeJS.Timeout | undefined;
    const waited = new Promise((resolve) => (timer = setTimeout(resolve, MOST_WAITED)));
    await Promise.race([Promise.allSettled(held), waited]);
    clearTimeout(timer);
  }

  /** Files were moved. */
  async end(files: readonly FileMove[]): Promise<void> {
    const moved = [...this.moving.keys()].filter((document) => movedTo(document.uri.fsPath, files) !== undefined);
    await Promise.all(moved.map((document) => this.left(document)));
  }

  /** The document of the old name is closed, or is not needed any more; whether it was one that is moved. */
  async left(document: D): Promise<boolean> {
    const move = this.moving.get(document);
    if (move === undefined) return false;
    this.moving.delete(document);
    clearTimeout(move.timer);
    const ending = this.mover.moved(document, move.to).finally(() => this.ending.delete(move.to));
    this.ending.set(move.to, ending);
    move.release();
    await ending;
    return true;
  }

  isMoving(document: D): boolean {
    return this.moving.has(document);
  }

  /** Returns once whatever is moved to this path has left its old one. */
  async arrived(path: string): Promise<void> {
    const [document] = [...this.moving].find(([, { to }]) => to === path) ?? [];
    if (document !== undefined) await this.left(document);
    else await this.ending.get(path);
  }

  dispose(): void {
    for (const document of [...this.moving.keys()]) this.giveUp(document);
  }

  private giveUp(document: D): void {
    const move = this.moving.get(document);
    if (move === undefined) return;
    this.moving.delete(document);
    clearTimeout(move.timer);
    move.release();
  }
}
