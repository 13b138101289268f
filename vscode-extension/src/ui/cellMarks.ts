import * as vscode from "vscode";
import type { Disposable } from "../emitter";
import type { Documents } from "../notebook/documents";
import { NOTEBOOK } from "../notebook/documents";
import { cellHash } from "../notebook/cells";
import { docCell } from "../notebook/document";
import { cellType } from "../notebook/nbformat";
import { WIDGET } from "../notebook/outputs";
import type { Approval, OutlineCell } from "../server/protocol";
import type { Servers } from "../server/registry";
import type { RootServer } from "../server/root";
import { settings } from "../settings";
import { authorName, isPerson } from "./words";

const { t } = vscode.l10n;
const ASK_AGAIN = 400;

interface Outline {
  readonly cells: ReadonlyMap<string, OutlineCell>;
}

/** Below each cell: who ran it, whether it is out of date, and what an agent asks. */
export class CellMarks implements vscode.NotebookCellStatusBarItemProvider, Disposable {
  private readonly changed = new vscode.EventEmitter<void>();
  readonly onDidChangeCellStatusBarItems = this.changed.event;
  private readonly outlines = new Map<string, Outline>();
  private readonly asking = new Map<string, NodeJS.Timeout>();
  /** Who ran a cell last, since this window looks. */
  private readonly authors = new Map<string, string>();
  private readonly subscriptions: Disposable[];

  constructor(
    private readonly documents: Documents,
    servers: Servers,
  ) {
    const follow = (server: RootServer): void => {
      server.onApproval(() => this.changed.fire());
      server.onState(() => this.askAll(server));
      server.onKernel(() => this.askAll(server));
      server.onExecution(({ notebook, cell_id, author, finished_at }) => {
        if (notebook === null || cell_id === null) return;
        this.authors.set(`${key(server, notebook)}\0${cell_id}`, author);
        this.changed.fire();
        if (finished_at !== null) this.ask(server, notebook);
      });
    };
    this.subscriptions = [
      vscode.notebooks.registerNotebookCellStatusBarItemProvider(NOTEBOOK, this), this.changed, servers.onAdded(follow),
      vscode.workspace.onDidChangeConfiguration(() => this.changed.fire()),
      vscode.workspace.onDidChangeNotebookDocument(({ cellChanges }) => {
        const edited = cellChanges.filter(({ document }) => document !== undefined);
        if (edited.length === 0) return;
        this.changed.fire();
        this.askIfMarked(edited.map(({ cell }) => cell));
      }),
    ];
    servers.all().forEach(follow);
  }

  dispose(): void {
    for (const one of this.subscriptions) one.dispose();
    for (const timer of this.asking.values()) clearTimeout(timer);
  }

  provideCellStatusBarItems(cell: vscode.NotebookCell): vscode.NotebookCellStatusBarItem[] {
    const shared = this.documents.get(cell.notebook);
    if (shared === undefined || cellType(docCell(cell)) !== "code") return [];
    const id = shared.idOf(cell);
    const approval = [...shared.server.state.approvals.values()].find(({ notebook_path, cell_id }) => notebook_path === shared.path && cell_id === id);
    return [
      ...(approval === undefined ? [] : approvalItems(shared.server, approval)),
      ...this.marks(shared.server, shared.path, cell, id),
      ...(cell.outputs.some(({ items }) => items.some(({ mime }) => mime === WIDGET)) ? [widgetItem()] : []),
    ];
  }

  /** The cells of a notebook whose results are no longer those of their code and kernel. */
  staleCells(notebook: vscode.NotebookDocument): vscode.NotebookCell[] {
    const shared = this.documents.get(notebook);
    if (shared === undefined) return [];
    return notebook.getCells().filter((cell) => this.staleness(shared.server, shared.path, cell, shared.idOf(cell)) !== undefined);
  }

  private marks(server: RootServer, path: string, cell: vscode.NotebookCell, id: string): vscode.NotebookCellStatusBarItem[] {
    const told = this.outlines.get(key(server, path))?.cells.get(id);
    const running = [...server.state.executions.values()].find(({ notebook, cell_id }) => notebook === path && cell_id === id);
    const author = running?.author ?? this.authors.get(`${key(server, path)}\0${id}`) ?? told?.author ?? undefined;
    const items: vscode.NotebookCellStatusBarItem[] = [];
    if (author !== undefined && !isPerson(author)) {
      items.push(item(`$(hubot) ${authorName(author)}`, running === undefined ? t("Last run by {0}", author) : t("Run by {0}", author), vscode.NotebookCellStatusBarAlignment.Right));
    }
    const stale = running === undefined && settings.staleMarks() ? this.staleness(server, path, cell, id) : undefined;
    if (stale !== undefined) items.push(staleItem(stale));
    return items;
  }

  private staleness(server: RootServer, path: string, cell: vscode.NotebookCell, id: string): string | undefined {
    const told = this.outlines.get(key(server, path))?.cells.get(id);
    if (told === undefined || cell.outputs.length + (cell.executionSummary?.executionOrder ?? 0) === 0) return undefined;
    const source = cell.document.getText().replaceAll("\r\n", "\n");
    const differs = cellHash({ cell_type: "code", source }) !== told.hash;
    if (told.staleness === "old kernel" || told.staleness === "edited") return told.staleness;
    // Who ran it is known of runs that the server knows: its hash is of what ran then.
    return differs && told.author !== null ? "edited" : undefined;
  }

  /** A cell that was marked may be as it was when it ran: only the server knows. */
  private askIfMarked(cells: readonly vscode.NotebookCell[]): void {
    for (const cell of cells) {
      const shared = this.documents.get(cell.notebook);
      const told = shared && this.outlines.get(key(shared.server, shared.path))?.cells.get(shared.idOf(cell));
      if (shared !== undefined && told?.staleness === "edited") this.ask(shared.server, shared.path);
    }
  }

  private askAll(server: RootServer): void {
    for (const shared of this.documents.all()) if (shared.server === server) this.ask(server, shared.path);
  }

  /** Ask how a notebook's cells stand, once things are quiet. */
  ask(server: RootServer, path: string): void {
    const name = key(server, path);
    clearTimeout(this.asking.get(name));
    this.asking.set(name, setTimeout(() => void this.askNow(server, path), ASK_AGAIN));
  }

  private async askNow(server: RootServer, path: string): Promise<void> {
    this.asking.delete(key(server, path));
    try {
      const { data } = await (await server.ready()).operation("get_notebook_info", { notebook_path: path });
      const outline = (data["outline"] ?? []) as unknown as OutlineCell[];
      this.outlines.set(key(server, path), { cells: new Map(outline.map((cell) => [cell.cell_id, cell])) });
      this.changed.fire();
    } catch {
      // Marks are an extra: without an answer there are none.
    }
  }
}

function key(server: RootServer, path: string): string {
  return `${server.root}\0${path}`;
}

function item(text: string, tooltip: string, alignment = vscode.NotebookCellStatusBarAlignment.Left): vscode.NotebookCellStatusBarItem {
  const made = new vscode.NotebookCellStatusBarItem(text, alignment);
  made.tooltip = tooltip;
  made.accessibilityInformation = { label: tooltip };
  return made;
}

function staleItem(staleness: string): vscode.NotebookCellStatusBarItem {
  if (staleness === "old kernel") return item(`$(history) ${t("earlier kernel")}`, t("It ran in a kernel that is gone: its variables are not there any more. Run it again."));
  return item(`$(warning) ${t("edited since it ran")}`, t("Its output is of code that has been changed since. Run it again."));
}

function widgetItem(): vscode.NotebookCellStatusBarItem {
  const made = item(`$(info) ${t("widgets are shown as text")}`, t("Interactive widgets are not shown here: why, and what works instead"));
  made.command = "mcp-server-jupyter.widgets";
  return made;
}

function approvalItems(server: RootServer, approval: Approval): vscode.NotebookCellStatusBarItem[] {
  const who = authorName(approval.author);
  const make = (title: string, tooltip: string, command: string, priority: number): vscode.NotebookCellStatusBarItem => {
    const made = item(title, tooltip);
    made.command = { title: tooltip, command, arguments: [server.root, approval.execution_id] };
    made.priority = priority;
    return made;
  };
  return [
    make(`$(check) ${t("Approve")}`, t("Let {0} run this cell", who), "mcp-server-jupyter.approve", 20),
    make(`$(x) ${t("Deny")}`, t("Do not let {0} run this cell", who), "mcp-server-jupyter.deny", 19),
    item(`$(hubot) ${t("{0} asks to run this", who)}`, t("{0} waits for your answer", approval.author)),
  ];
}
