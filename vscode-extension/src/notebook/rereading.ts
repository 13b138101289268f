import { stat, readFile } from "node:fs/promises";
import path from "node:path";
import * as vscode from "vscode";
import type { Disposable } from "../emitter";
import { words } from "../errors";
import type { Log } from "../log";
import { docCell, type SharedDocument } from "./document";
import { hasOnlyRunsOf } from "./nbformat";

const SETTLES = 300;

/** Whether any run is filling cells of a notebook, and when one has ended. */
export interface Busy {
  isBusy(notebook: vscode.NotebookDocument): boolean;
  onFinished(listener: () => void): Disposable;
}

/**
 * Reads a notebook again that another window has saved, where this one has nothing but runs that are in the file as
 * well: else their outputs alone would make it "changed", and the newer file would be in the way of saving.
 */
export class Rereading implements Disposable {
  private readonly watched = new Map<SharedDocument, { watcher: vscode.FileSystemWatcher; own: number; timer?: NodeJS.Timeout }>();
  private readonly newer = new Set<SharedDocument>();
  private readonly subscriptions: Disposable[];

  constructor(
    private readonly busy: Busy,
    private readonly log: Log,
  ) {
    const look = (): void => {
      for (const shared of this.newer) this.soon(shared);
    };
    this.subscriptions = [busy.onFinished(look), vscode.window.onDidChangeActiveNotebookEditor(look)];
  }

  follow(shared: SharedDocument): void {
    const { fsPath } = shared.document.uri;
    const watcher = vscode.workspace.createFileSystemWatcher(new vscode.RelativePattern(vscode.Uri.file(path.dirname(fsPath)), path.basename(fsPath)));
    this.watched.set(shared, { watcher, own: 0 });
    watcher.onDidChange(() => {
      this.newer.add(shared);
      this.soon(shared);
    });
  }

  /** The file is what this window has just written. */
  async saved(shared: SharedDocument): Promise<void> {
    const watched = this.watched.get(shared);
    if (watched === undefined) return;
    this.newer.delete(shared);
    watched.own = (await stat(shared.document.uri.fsPath)).mtimeMs;
  }

  forget(shared: SharedDocument): void {
    const watched = this.watched.get(shared);
    clearTimeout(watched?.timer);
    watched?.watcher.dispose();
    this.watched.delete(shared);
    this.newer.delete(shared);
  }

  dispose(): void {
    for (const one of this.subscriptions) one.dispose();
    for (const shared of [...this.watched.keys()]) this.forget(shared);
  }

  private soon(shared: SharedDocument): void {
    const watched = this.watched.get(shared);
    if (watched === undefined) return;
    clearTimeout(watched.timer);
    watched.timer = setTimeout(() => {
      this.look(shared, watched.own).catch((error: unknown) => this.log.info(`${shared.path}: ${words(error)}`));
    }, SETTLES);
  }

  private async look(shared: SharedDocument, own: number): Promise<void> {
    const { document } = shared;
    if (!shared.isDirty) {
      // The editor reads it by itself.
      this.newer.delete(shared);
      return;
    }
    // The editor reads again only what it shows; a run that goes on would lose its cell.
    if (vscode.window.activeNotebookEditor?.notebook !== document || this.busy.isBusy(document)) return;
    const file = document.uri.fsPath;
    if ((await stat(file)).mtimeMs === own) {
      this.newer.delete(shared);
      return;
    }
    const text = await readFile(file, "utf8");
    if (!hasOnlyRunsOf(document.getCells().map(docCell), text) || !this.newer.delete(shared)) return;
    this.log.info(`${shared.path}: another window has saved it; read again`);
    await vscode.commands.executeCommand("workbench.action.files.revert");
  }
}
