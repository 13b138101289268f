import { randomBytes } from "node:crypto";
import * as vscode from "vscode";
import { type Disposable, Emitter } from "../emitter";
import { words } from "../errors";
import type { Log } from "../log";
import { Refused } from "../server/client";
import { InOrder } from "../server/order";
import type { Clash, EditRequest, JsonObject, Op, Opened } from "../server/protocol";
import type { RootServer } from "../server/root";
import { applied, type Cell, difference, DoesNotFit, cellHash, same, type Sheet } from "./cells";
import { applyOps } from "./edits";
import { type DocCell, hasIds, ownId, toCell, toMetadata, toNotebook } from "./nbformat";
import { parsed } from "./outputs";

/** How outputs get into a cell: by an execution, which the document's owner of runs has. */
export interface OutputWriter {
  writeOutputs(cell: vscode.NotebookCell, op: Extract<Op, { op: "outputs" }>): Promise<void>;
  /** Whether the outputs that the cell has now came from the server. */
  wrote(cell: vscode.NotebookCell): boolean;
  /** Whether any run is filling cells of the notebook. */
  isBusy(notebook: vscode.NotebookDocument): boolean;
}

const TYPING_PAUSE = 80;
const READ_AGAIN = 400;
const MOST_READS = 20;
const SETTLES = 150;

/** An open notebook, and what the server knows of it: one version after the other. */
export class SharedDocument implements Disposable {
  private readonly ids = new WeakMap<vscode.NotebookCell, string>();
  private readonly work = new InOrder();
  private known: Sheet = { cells: [], metadata: {} };
  private version = 0;
  private typing: NodeJS.Timeout | undefined;
  private cleared = new Map<string, vscode.NotebookCell>();
  private opening: Promise<void> | undefined;
  private isClosed = false;
  /** The server counts this window as the notebook's editor. */
  isOwner = false;
  shared = true;
  /** Unsaved changes are the person's own: nothing is saved behind their back. */
  private isPersons: boolean;
  private saving: NodeJS.Timeout | undefined;
  private isTold = false;
  private isHeard = false;
  private readonly told = new Emitter<void>();
  /** The person types in a notebook that another window has. */
  readonly onTypedElsewhere = this.told.on;
  private readonly lost = new Emitter<readonly Clash[]>();
  /** While the window was away others have changed cells that the person has changed as well. */
  readonly onClash = this.lost.on;

  constructor(
    readonly document: vscode.NotebookDocument,
    readonly server: RootServer,
    readonly path: string,
    private readonly writer: OutputWriter,
    private readonly log: Log,
  ) {
    this.isPersons = this.isDirty;
  }

  /** The cell's id, as server and file have it; made up for a cell that has none. */
  idOf(cell: vscode.NotebookCell): string {
    const own = ownId(cell.metadata);
    const known = this.ids.get(cell);
    if (own !== undefined && (known === undefined || !known.startsWith("dup-"))) return own;
    if (known !== undefined) return known.replace(/^dup-/, "");
    const made = randomBytes(4).toString("hex");
    this.ids.set(cell, made);
    return made;
  }

  cellOf(id: string): vscode.NotebookCell | undefined {
    return this.document.getCells().find((cell) => this.idOf(cell) === id);
  }

  /** Tell the server that the notebook is open here, with what is not in its file; until then it is not ours. */
  async open(): Promise<void> {
    this.opening ??= this.work.do(() => this.openNow()).finally(() => (this.opening = undefined));
    await this.opening;
  }

  /** Everything typed until now is known to the server afterwards. */
  async flush(): Promise<void> {
    clearTimeout(this.typing);
    await this.work.do(() => this.tell());
  }

  /**
   * Whether it has unsaved changes. A new extension host is told of the notebooks that are open, and not which of them
   * have (VS Code's NotebookModelAddedData): until the editor says anything of this one, its tab knows.
   */
  get isDirty(): boolean {
    return this.document.isDirty || (!this.isHeard && hasDirtyTab(this.document));
  }

  /** The document has changed: tell it once the person pauses. */
  changed(event: vscode.NotebookDocumentChangeEvent | undefined): void {
    this.isHeard = true;
    if (!this.isOwner) {
      this.observed(event);
      return;
    }
    for (const change of event?.cellChanges ?? []) {
      // Outputs that a run writes are the server's; the others are the person's, who clears them.
      if (change.outputs !== undefined && !this.writer.wrote(change.cell)) this.cleared.set(this.idOf(change.cell), change.cell);
    }
    clearTimeout(this.typing);
    this.typing = setTimeout(() => this.inBackground(this.flush()), TYPING_PAUSE);
  }

  /** Another window has the notebook: what is typed here it does not see before it is this one's. */
  private observed(event: vscode.NotebookDocumentChangeEvent | undefined): void {
    const isTyped = (event?.contentChanges.length ?? 0) > 0 || event?.cellChanges.some(({ document }) => document !== undefined) === true;
    if (!isTyped || this.isTold || this.isClosed) return;
    clearTimeout(this.typing);
    // The editor reads the file by itself when the other window saves: that leaves nothing unsaved.
    this.typing = setTimeout(() => {
      if (this.isOwner || !this.isDirty || this.isTold) return;
      this.isTold = true;
      this.told.fire();
    }, TYPING_PAUSE);
  }

  /** The person runs cells: the outputs that come are theirs to save. */
  touched(): void {
    this.isPersons = true;
  }

  /** Save what agents have done, once it is quiet, if the person had nothing unsaved. */
  saveForAgents(): void {
    clearTimeout(this.saving);
    this.saving = setTimeout(() => this.inBackground(this.work.do(async () => {
      if (!this.isOwner || this.isPersons || this.isClosed || this.document.isClosed || !this.isDirty || this.writer.isBusy(this.document)) return;
      await this.document.save();
    })), SETTLES);
  }

  saved(): void {
    this.isHeard = true;
    this.isPersons = false;
    this.isTold = false;
    this.inBackground(this.work.do(async () => {
      await this.tell();
      if (this.isOwner && !this.isClosed) await this.server.post({ type: "saved", path: this.path, version: this.version });
    }));
  }

  async setShared(shared: boolean): Promise<void> {
    if (this.shared === shared) return;
    this.shared = shared;
    await this.open();
  }

  /** An agent's edit. */
  edit(request: EditRequest): void {
    this.inBackground(this.work.do(() => this.editNow(request)));
  }

  /** Change nothing in the document until this is resolved. */
  hold(until: Promise<void>): void {
    void this.work.do(async () => until);
  }

  async renamed(to: string): Promise<void> {
    this.isClosed = true;
    clearTimeout(this.typing);
    await this.work.do(() => this.server.post({ type: "renamed", path: this.path, to }));
  }

  async close(): Promise<void> {
    this.isClosed = true;
    clearTimeout(this.typing);
    if (!this.server.isWanted || !this.server.connected) return;
    await this.work.do(() => this.server.post({ type: "close", path: this.path }));
  }

  dispose(): void {
    clearTimeout(this.typing);
    clearTimeout(this.saving);
    this.isClosed = true;
  }

  private inBackground(work: Promise<unknown>): void {
    work.catch((error: unknown) => {
      if (!this.isClosed) this.log.warn(`${this.path}: ${words(error)}`);
    });
  }

  // ------------------------------------------------------------------ opening

  private async openNow(): Promise<void> {
    for (let attempt = 0; attempt < MOST_READS && !this.isClosed; attempt++) {
      const sheet = this.capture();
      const dirty = this.isDirty;
      const notebook = dirty ? this.wholeNotebook() : undefined;
      const answer = await this.server.post<Opened>({ type: "open", path: this.path, dirty, shared: this.shared, ...(notebook === undefined ? {} : { notebook }) });
      this.isOwner = answer.owner === this.server.window;
      this.version = answer.version;
      if (!this.isOwner) return;
      const ours = this.named(sheet, answer);
      if (ours === undefined) {
        // The file is newer than what the editor has read: it will read it again by itself.
        await new Promise((resolve) => setTimeout(resolve, READ_AGAIN));
        continue;
      }
      this.known = ours;
      if (answer.ops.length > 0) await this.apply(answer.ops);
      if (answer.clashes !== undefined && answer.clashes.length > 0) this.lost.fire(answer.clashes);
      await this.tell();
      return;
    }
  }

  /** Our cells under the server's names; undefined when they are others. */
  private named(sheet: Sheet, { cells, ops }: Opened): Sheet | undefined {
    let ours = sheet;
    if (sheet.cells.length === this.document.cellCount && ops.length === 0 && cells.length === sheet.cells.length) {
      const renamed = sheet.cells.map((cell, at): Cell => ({ ...cell, id: cells[at]?.id ?? cell.id }));
      this.document.getCells().forEach((cell, at) => this.name(cell, renamed[at]?.id ?? ""));
      ours = { ...sheet, cells: renamed };
    }
    const after = attempt(() => applied(ours, ops));
    if (after === undefined || after.cells.length !== cells.length) return undefined;
    const fits = after.cells.every((cell, at) => cell.id === cells[at]?.id && cellHash(cell) === cells[at].hash);
    return fits ? ours : undefined;
  }

  private name(cell: vscode.NotebookCell, id: string): void {
    const own = ownId(cell.metadata);
    if (own === id || id === "") return;
    this.ids.set(cell, own === undefined ? id : `dup-${id}`);
  }

  private wholeNotebook(): JsonObject {
    const cells = this.document.getCells();
    return toNotebook(this.document.metadata, cells.map(docCell), cells.map((cell) => this.idOf(cell)));
  }

  /** The notebook as it stands. */
  capture(): Sheet {
    const seen = new Set<string>();
    const cells = this.document.getCells().map((cell) => {
      let id = this.idOf(cell);
      if (seen.has(id)) {
        // A pasted copy has the id of what it was copied from.
        id = randomBytes(4).toString("hex");
        this.ids.set(cell, `dup-${id}`);
        this.writeId(cell, id);
      }
      seen.add(id);
      return toCell(docCell(cell), id);
    });
    return { cells, metadata: toMetadata(this.document.metadata) };
  }

  private writeId(cell: vscode.NotebookCell, id: string): void {
    if (!hasIds(this.document.metadata)) return;
    const edit = new vscode.WorkspaceEdit();
    edit.set(this.document.uri, [vscode.NotebookEdit.updateCellMetadata(cell.index, { ...cell.metadata, id })]);
    void vscode.workspace.applyEdit(edit);
  }

  // ------------------------------------------------------------------ what is typed here

  private async tell(): Promise<void> {
    if (!this.isOwner || this.isClosed) return;
    await this.cellsHaveIds();
    const sheet = this.capture();
    const cleared = [...this.cleared];
    this.cleared.clear();
    const ops = [...difference(this.known, sheet), ...cleared.flatMap(([id, cell]) => this.outputsOf(id, cell, sheet))];
    if (ops.length === 0) return;
    this.isPersons = this.isDirty;
    try {
      await this.server.post({ type: "change", path: this.path, base: this.version, version: this.version + 1, ops, dirty: this.isDirty });
      this.version += 1;
      this.known = sheet;
    } catch (error) {
      if (!isStale(error)) throw error;
      this.log.info(`${this.path}: opened again, ${words(error)}`);
      await this.openNow();
    }
  }

  /** The editor's own notebook format gives new cells their ids, a moment after they were made. */
  private async cellsHaveIds(): Promise<void> {
    if (!hasIds(this.document.metadata)) return;
    const isWaiting = (): boolean => this.document.getCells().some((cell) => ownId(cell.metadata) === undefined && !this.ids.has(cell));
    for (let looks = 0; looks < 5 && isWaiting(); looks++) await new Promise((resolve) => setTimeout(resolve, 60));
  }

  private outputsOf(id: string, cell: vscode.NotebookCell, sheet: Sheet): Op[] {
    if (this.writer.wrote(cell) || !sheet.cells.some((one) => one.id === id && one.cell_type === "code")) return [];
    const { outputs, executionOrder } = docCell(cell);
    return [{ op: "outputs", id, outputs: outputs.map(parsed), execution_count: executionOrder ?? null }];
  }

  // ------------------------------------------------------------------ what agents do

  private async editNow(request: EditRequest): Promise<void> {
    if (!this.isOwner || this.isClosed || Date.now() / 1_000 > request.deadline) return;
    let status: "applied" | "refused" = "applied";
    try {
      await this.tell();
      await this.apply(request.ops);
      this.version += 1;
    } catch (error) {
      if (!(error instanceof DoesNotFit)) throw error;
      status = "refused";
      await this.tell();
    }
    try {
      await this.server.post({ type: "reply", request: request.request, status, version: this.version });
    } catch (error) {
      if (!isStale(error)) throw error;
      await this.openNow();
      return;
    }
    if (status === "applied") this.saveForAgents();
  }

  /** Apply ops to the document; what was typed at the same moment stays untold until the next `tell`. */
  private async apply(ops: readonly Op[]): Promise<void> {
    const current = this.capture();
    const named = (cell: vscode.NotebookCell, id: string): void => this.name(cell, id);
    await applyOps({ document: this.document, sheet: current, named }, ops);
    this.known = applied(same(current, this.known) ? current : this.known, ops);
    for (const op of ops) {
      const cell = op.op === "outputs" ? this.cellOf(op.id) : undefined;
      if (op.op === "outputs" && cell !== undefined) await this.writer.writeOutputs(cell, op);
    }
  }
}

/** A cell of the editor's as plain values. */
export function docCell(cell: vscode.NotebookCell): DocCell {
  return {
    isMarkup: cell.kind === vscode.NotebookCellKind.Markup,
    languageId: cell.document.languageId,
    text: cell.document.getText(),
    metadata: cell.metadata,
    outputs: cell.outputs.map(({ items, metadata }) => ({ items, metadata: (metadata ?? {}) })),
    executionOrder: cell.executionSummary?.executionOrder,
  };
}

function hasDirtyTab({ uri }: vscode.NotebookDocument): boolean {
  const tabs = vscode.window.tabGroups.all.flatMap((group) => group.tabs);
  return tabs.some(({ input, isDirty }) => isDirty && input instanceof vscode.TabInputNotebook && input.uri.toString() === uri.toString());
}

function isStale(error: unknown): boolean {
  return error instanceof Refused && error.status === 409;
}

function attempt<T>(work: () => T): T | undefined {
  try {
    return work();
  } catch (error) {
    if (error instanceof DoesNotFit) return undefined;
    throw error;
  }
}
