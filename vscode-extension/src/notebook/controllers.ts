import { createHash } from "node:crypto";
import * as vscode from "vscode";
import type { Disposable } from "../emitter";
import type { Environment } from "../python/environments";
import { NOTEBOOK } from "./documents";

const { t } = vscode.l10n;

/** What a controller starts: the notebook's own kernelspec, one by name, or a Python's. */
export type Choice = { readonly kind: "own" } | { readonly kind: "spec"; readonly name: string } | { readonly kind: "python"; readonly python: string };

export interface Handlers {
  run(cells: readonly vscode.NotebookCell[], notebook: vscode.NotebookDocument, choice: Choice): Promise<void>;
  interrupt(notebook: vscode.NotebookDocument): Promise<void>;
  selected(notebook: vscode.NotebookDocument, isSelected: boolean): void;
}

export const OWN = "own";
const RACE_LOOKS = 20;
const RACE_PAUSE = 60;

/** The kernels that the editor offers for a notebook. */
export class Controllers implements Disposable {
  private readonly byId = new Map<string, { controller: vscode.NotebookController; choice: Choice }>();
  private readonly selection = new Map<vscode.NotebookDocument, vscode.NotebookController>();

  constructor(
    private readonly extensionId: string,
    private readonly handlers: Handlers,
  ) {
    this.add(OWN, t("Shared with agents"), t("the notebook's own kernel"), { kind: "own" });
  }

  /** Offer these as well; those no longer there go unless a notebook has them. */
  offer(specs: ReadonlyMap<string, string>, environments: readonly Environment[]): void {
    const wanted = new Set([OWN]);
    for (const [name, display] of specs) wanted.add(this.add(`spec-${name}`, display, t("shared with agents"), { kind: "spec", name }));
    for (const { python, name } of environments) {
      wanted.add(this.add(`python-${createHash("sha256").update(python).digest("hex").slice(0, 12)}`, name, t("shared with agents"), { kind: "python", python }, python));
    }
    const used = new Set([...this.selection.values()].map(({ id }) => id));
    for (const [id, { controller }] of this.byId) {
      if (wanted.has(id) || used.has(id)) continue;
      controller.dispose();
      this.byId.delete(id);
    }
  }

  /** The controller that is selected for a notebook, if it is one of ours. */
  of(notebook: vscode.NotebookDocument): vscode.NotebookController | undefined {
    return this.selection.get(notebook);
  }

  choiceOf(notebook: vscode.NotebookDocument): Choice | undefined {
    const id = this.selection.get(notebook)?.id;
    return id === undefined ? undefined : this.byId.get(id)?.choice;
  }

  /** Which one is right for a kernelspec. */
  idFor(spec: string | undefined): string {
    const id = `spec-${spec ?? ""}`;
    return this.byId.has(id) ? id : OWN;
  }

  prefer(notebook: vscode.NotebookDocument, id: string): void {
    for (const [other, { controller }] of this.byId) {
      controller.updateNotebookAffinity(notebook, other === id ? vscode.NotebookControllerAffinity.Preferred : vscode.NotebookControllerAffinity.Default);
    }
  }

  /** Select one for a notebook, as a person would in the kernel picker. */
  async select(notebook: vscode.NotebookDocument, id: string): Promise<boolean> {
    if (this.selection.get(notebook)?.id === id) return true;
    const editor = vscode.window.visibleNotebookEditors.find((one) => one.notebook === notebook);
    await vscode.commands.executeCommand("notebook.selectKernel", {
      id, extension: this.extensionId, ...(editor === undefined ? { notebookUri: notebook.uri } : { notebookEditor: editor }),
    });
    for (let looks = 0; looks < RACE_LOOKS && this.selection.get(notebook)?.id !== id; looks++) await pause();
    return this.selection.get(notebook)?.id === id;
  }

  /** An execution in the editor; undefined where it allows none: another kernel is chosen, or the cell is gone. */
  readonly begin = async (cell: vscode.NotebookCell): Promise<vscode.NotebookCellExecution | undefined> => {
    for (let looks = 0; looks < RACE_LOOKS; looks++) {
      const controller = this.selection.get(cell.notebook);
      if (cell.notebook.isClosed || cell.index < 0) return undefined;
      try {
        if (controller !== undefined) return controller.createNotebookCellExecution(cell);
      } catch {
        // The editor tells us of a selection before it believes it itself; an earlier run may be ending.
      }
      await pause();
    }
    return undefined;
  };

  dispose(): void {
    for (const { controller } of this.byId.values()) controller.dispose();
  }

  private add(id: string, label: string, description: string, choice: Choice, detail?: string): string {
    const there = this.byId.get(id);
    if (there !== undefined) {
      there.controller.label = label;
      return id;
    }
    const controller = vscode.notebooks.createNotebookController(id, NOTEBOOK, label);
    controller.description = description;
    if (detail !== undefined) controller.detail = detail;
    controller.supportsExecutionOrder = true;
    controller.executeHandler = (cells, notebook) => this.handlers.run(cells, notebook, choice);
    controller.interruptHandler = (notebook) => this.handlers.interrupt(notebook);
    controller.onDidChangeSelectedNotebooks(({ notebook, selected }) => {
      if (selected) this.selection.set(notebook, controller);
      else if (this.selection.get(notebook) === controller) this.selection.delete(notebook);
      this.handlers.selected(notebook, selected);
    });
    this.byId.set(id, { controller, choice });
    return id;
  }
}

async function pause(): Promise<void> {
  await new Promise((resolve) => setTimeout(resolve, RACE_PAUSE));
}
