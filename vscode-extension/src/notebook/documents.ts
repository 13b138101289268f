import { existsSync } from "node:fs";
import * as vscode from "vscode";
import { type Disposable, Emitter } from "../emitter";
import { words } from "../errors";
import type { Log } from "../log";
import type { Execution } from "../server/protocol";
import type { Servers } from "../server/registry";
import type { RootServer } from "../server/root";
import { SharedDocument } from "./document";
import { Moves } from "./moves";
import { type FileMove, type Place, placeOf } from "./roots";
import { Rereading } from "./rereading";
import type { CellFinder, Runs } from "./runs";

export const NOTEBOOK = "jupyter-notebook";

/** Whether a document is a notebook that a person has open: chats have snapshots of their own. */
export function isNotebook(document: vscode.NotebookDocument): boolean {
  return document.notebookType === NOTEBOOK && (document.uri.scheme === "file" || document.isUntitled);
}

/** The notebooks that are open in this window, and their servers. */
export class Documents implements CellFinder, Disposable {
  private readonly shared = new Map<vscode.NotebookDocument, SharedDocument>();
  private readonly moves = new Moves<vscode.NotebookDocument>({
    hold: (document, until) => this.hold(document, until),
    moved: (document, to) => this.moved(document, to),
  });
  /** Documents of names that their notebooks have no more, until the editor closes them. */
  private readonly left = new WeakSet<vscode.NotebookDocument>();
  private readonly subscriptions: Disposable[] = [];
  /** Kernels of notebooks that have no file yet, by document. */
  private readonly untitled = new Map<vscode.NotebookDocument, { server: RootServer; kernelId: string }>();
  private unsaved: { text: string; server: RootServer; kernelId: string } | undefined;
  private readonly newlyShared = new Emitter<SharedDocument>();
  readonly onShared = this.newlyShared.on;
  private runs: Runs | undefined;
  private rereading: Rereading | undefined;

  constructor(
    private readonly servers: Servers,
    private readonly log: Log,
  ) {}

  start(runs: Runs): void {
    this.runs = runs;
    this.rereading = new Rereading(runs, this.log);
    this.subscriptions.push(
      vscode.workspace.onDidCloseNotebookDocument((document) => this.closed(document)),
      vscode.workspace.onDidChangeNotebookDocument((event) => this.shared.get(event.notebook)?.changed(event)),
      vscode.workspace.onDidSaveNotebookDocument((document) => this.saved(document)),
      vscode.workspace.onWillRenameFiles((event) => event.waitUntil(this.moves.begin(this.shared.keys(), fileMoves(event)))),
      vscode.workspace.onDidRenameFiles((event) => this.inBackground(this.moves.end(fileMoves(event)))),
      this.servers.onAdded((server) => this.follow(server)),
    );
    for (const server of this.servers.all()) this.follow(server);
  }

  all(): SharedDocument[] {
    return [...this.shared.values()];
  }

  get(document: vscode.NotebookDocument): SharedDocument | undefined {
    return this.shared.get(document);
  }

  /** Where the document's server has it; an untitled one has only a root. */
  place(document: vscode.NotebookDocument): Place {
    const folders = workspaceFolders();
    if (!document.isUntitled) return placeOf(document.uri.fsPath, folders);
    return placeOf(`${folders[0] ?? process.env["HOME"] ?? "/"}/Untitled.ipynb`, folders);
  }

  serverOf(document: vscode.NotebookDocument): RootServer {
    return this.servers.of(this.place(document).root);
  }

  /**
   * Share a notebook with the root's server, and with whoever uses that; starts the server if need be.
   *
   * @throws whatever keeps the server from starting.
   */
  async share(document: vscode.NotebookDocument): Promise<SharedDocument | undefined> {
    if (document.isUntitled || document.isClosed || this.left.has(document)) return undefined;
    const there = this.shared.get(document);
    if (there !== undefined) return there;
    const { root, path } = this.place(document);
    const server = this.servers.of(root);
    await server.ready();
    await this.moves.arrived(document.uri.fsPath);
    const raced = this.shared.get(document);
    if (raced !== undefined) return raced;
    if (this.runs === undefined) return undefined;
    const shared = new SharedDocument(document, server, path, this.runs, this.log);
    this.shared.set(document, shared);
    this.rereading?.follow(shared);
    this.newlyShared.fire(shared);
    // What it cannot tell now it tells with the server's next state: its cells run all the same.
    await this.runs.open(server, path, async () => {
      await shared.open().catch((error: unknown) => this.log.warn(`${path}: ${words(error)}`));
      await this.bindUntitled(shared);
    });
    return shared;
  }

  /** Note the kernel of a notebook without a file, so that its first save binds them. */
  setUntitledKernel(document: vscode.NotebookDocument, server: RootServer, kernelId: string): void {
    this.untitled.set(document, { server, kernelId });
  }

  untitledKernel(document: vscode.NotebookDocument): string | undefined {
    return this.untitled.get(document)?.kernelId;
  }

  cellOf(server: RootServer, { notebook, cell_id }: Pick<Execution, "notebook" | "cell_id">): vscode.NotebookCell | undefined {
    if (notebook === null || cell_id === null) return undefined;
    const shared = this.byPath(server, notebook);
    return shared?.cellOf(cell_id);
  }

  saveForAgents(notebook: vscode.NotebookDocument): void {
    this.shared.get(notebook)?.saveForAgents();
  }

  byPath(server: RootServer, path: string): SharedDocument | undefined {
    return this.all().find((shared) => shared.server === server && shared.path === path);
  }

  /**
   * The window ends. What was saved is given back at once. A notebook with unsaved changes is kept for the window that
   * comes next: its editor restores them, and would find a file that was written meanwhile in its way.
   */
  async closeAll(): Promise<void> {
    await Promise.allSettled(this.all().filter(({ isDirty }) => !isDirty).map((shared) => shared.close()));
  }

  dispose(): void {
    this.rereading?.dispose();
    this.moves.dispose();
    for (const one of [...this.subscriptions, ...this.shared.values()]) one.dispose();
  }

  private follow(server: RootServer): void {
    const mine = (): SharedDocument[] => this.all().filter((shared) => shared.server === server);
    server.onState(() => {
      for (const shared of mine()) this.inBackground(shared.open());
    });
    server.onEdit((request) => this.byPath(server, request.path)?.edit(request));
    server.onLease(({ path, owner }) => {
      const shared = this.byPath(server, path);
      if (shared === undefined) return;
      if (owner !== this.servers.window) shared.isOwner = false;
      else if (!shared.isOwner) this.inBackground(this.runs?.open(server, path, async () => shared.open()) ?? Promise.resolve());
    });
  }

  private saved(document: vscode.NotebookDocument): void {
    const shared = this.shared.get(document);
    if (shared === undefined) return;
    shared.saved();
    if (this.rereading !== undefined) this.inBackground(this.rereading.saved(shared));
  }

  private closed(document: vscode.NotebookDocument): void {
    this.runs?.closed(document);
    const kernel = this.untitled.get(document);
    this.untitled.delete(document);
    if (kernel !== undefined) this.unsaved = { text: textOf(document), ...kernel };
    // One whose file is still there was closed by the person, and its move has failed.
    if (this.moves.isMoving(document) && !existsSync(document.uri.fsPath)) this.inBackground(this.moves.left(document));
    else this.inBackground(this.forget(document)?.close() ?? Promise.resolve());
  }

  private async hold(document: vscode.NotebookDocument, until: Promise<void>): Promise<void> {
    const shared = this.shared.get(document);
    const flushed = shared?.flush();
    shared?.hold(until);
    this.runs?.hold(document, until);
    await flushed;
  }

  private async moved(document: vscode.NotebookDocument, to: string): Promise<void> {
    this.left.add(document);
    this.runs?.closed(document);
    const shared = this.forget(document);
    if (shared === undefined) return;
    const place = placeOf(to, workspaceFolders());
    await (place.root === shared.server.root ? shared.renamed(place.path) : shared.close());
  }

  private forget(document: vscode.NotebookDocument): SharedDocument | undefined {
    const shared = this.shared.get(document);
    this.shared.delete(document);
    if (shared !== undefined) this.rereading?.forget(shared);
    return shared;
  }

  /** The file that an untitled notebook was just saved to goes on with its kernel. */
  private async bindUntitled(shared: SharedDocument): Promise<void> {
    const { unsaved } = this;
    if (unsaved?.server !== shared.server || unsaved.text !== textOf(shared.document)) return;
    this.unsaved = undefined;
    await (await shared.server.ready()).bind(shared.path, unsaved.kernelId);
  }

  private inBackground(work: Promise<unknown>): void {
    work.catch((error: unknown) => this.log.warn(words(error)));
  }
}

function workspaceFolders(): string[] {
  return (vscode.workspace.workspaceFolders ?? []).filter(({ uri }) => uri.scheme === "file").map(({ uri }) => uri.fsPath);
}

function fileMoves({ files }: vscode.FileWillRenameEvent | vscode.FileRenameEvent): FileMove[] {
  return files.map(({ oldUri, newUri }) => ({ from: oldUri.fsPath, to: newUri.fsPath }));
}

function textOf(document: vscode.NotebookDocument): string {
  return JSON.stringify(document.getCells().map((cell) => [cell.kind, cell.document.getText()]));
}
