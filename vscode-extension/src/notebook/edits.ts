import * as vscode from "vscode";
import type { CellValue, Op, Output } from "../server/protocol";
import { applied, type Cell, DoesNotFit, same, type Sheet, splices } from "./cells";
import { hasIds, withCell } from "./nbformat";
import { shown } from "./outputs";
import { textEdits } from "./text";

/** An open document with the ids of its cells, in order. */
export interface Target {
  readonly document: vscode.NotebookDocument;
  readonly sheet: Sheet;
  /** Called for the cells of a document whose format has no ids. */
  readonly named: (cell: vscode.NotebookCell, id: string) => void;
}

/** An output for the editor. */
export function toEditorOutput(output: Output): vscode.NotebookCellOutput {
  const { items, metadata } = shown(output);
  return new vscode.NotebookCellOutput(items.map(({ mime, data }) => new vscode.NotebookCellOutputItem(data, mime)), metadata);
}

/**
 * Apply ops to an open document in as few and as small edits as do it, so that cursor, focus and undo stay.
 *
 * Outputs are left out: they are not the editor's undo's.
 *
 * @returns the notebook after them.
 * @throws DoesNotFit when they do not fit, or the document was changed at the same moment; then nothing has changed.
 */
export async function applyOps({ document, sheet, named }: Target, ops: readonly Op[]): Promise<Sheet> {
  const next = applied(sheet, ops);
  const inserted = new Map(ops.flatMap((op) => (op.op === "insert" ? [[op.cell.id, op.cell] as const] : [])));
  const parts = splices(sheet.cells, next.cells);
  const edit = new vscode.WorkspaceEdit();
  const structure = parts.map(({ start, end, cells }) =>
    vscode.NotebookEdit.replaceCells(new vscode.NotebookRange(start, end), cells.map((cell) => cellData(document, sheet, cell, inserted.get(cell.id)))),
  );
  if (structure.length > 0) edit.set(document.uri, structure);
  const untouched = untouchedIndexes(sheet, parts);
  const after = new Map(next.cells.map((cell) => [cell.id, cell]));
  for (const index of untouched) {
    const [was, is] = [sheet.cells[index], after.get(sheet.cells[index]?.id ?? "")];
    if (was !== undefined && is !== undefined && was.source !== is.source) addText(edit, document.cellAt(index).document, was.source, is.source);
  }
  // `size` counts edits of texts alone.
  if ((structure.length > 0 || edit.size > 0) && !(await vscode.workspace.applyEdit(edit))) throw new DoesNotFit("The notebook was changed at the same moment.");
  if (!hasIds(document.metadata)) {
    next.cells.forEach((cell, index) => {
      if (index < document.cellCount) named(document.cellAt(index), cell.id);
    });
  }
  await applyMetadata(document, sheet, next, inserted);
  return next;
}

function untouchedIndexes(sheet: Sheet, parts: readonly { start: number; end: number }[]): number[] {
  return sheet.cells.map((_, index) => index).filter((index) => !parts.some(({ start, end }) => index >= start && index < end));
}

function addText(edit: vscode.WorkspaceEdit, text: vscode.TextDocument, was: string, is: string): void {
  const lineEnd = text.eol === vscode.EndOfLine.CRLF ? "\r\n" : "\n";
  for (const { start, end, text: put } of textEdits(was, is)) {
    const range = new vscode.Range(start.line, start.character, end.line, end.character);
    edit.replace(text.uri, range, put.replaceAll("\n", lineEnd));
  }
}

async function applyMetadata(document: vscode.NotebookDocument, before: Sheet, next: Sheet, inserted: ReadonlyMap<string, CellValue>): Promise<void> {
  const was = new Map(before.cells.map((cell) => [cell.id, cell]));
  const edits = next.cells.flatMap((cell, index) => {
    const old = was.get(cell.id);
    if (old === undefined || inserted.has(cell.id) || same(old.metadata, cell.metadata)) return [];
    const metadata = withCell(document.cellAt(index).metadata, cell, hasIds(document.metadata));
    return [vscode.NotebookEdit.updateCellMetadata(index, metadata)];
  });
  if (!same(before.metadata, next.metadata)) {
    edits.push(vscode.NotebookEdit.updateNotebookMetadata({ ...document.metadata, metadata: next.metadata }));
  }
  if (edits.length === 0) return;
  const edit = new vscode.WorkspaceEdit();
  edit.set(document.uri, edits);
  await vscode.workspace.applyEdit(edit);
}

/** A cell to be put in: a new one, or one that moves or changes its type and takes its outputs along. */
function cellData(document: vscode.NotebookDocument, before: Sheet, cell: Cell, inserted: CellValue | undefined): vscode.NotebookCellData {
  const index = before.cells.findIndex((one) => one.id === cell.id);
  const old = index < 0 ? undefined : document.cellAt(index);
  const kind = cell.cell_type === "markdown" ? vscode.NotebookCellKind.Markup : vscode.NotebookCellKind.Code;
  const data = new vscode.NotebookCellData(kind, cell.source, languageOf(document, cell, old));
  data.metadata = withCell((old?.metadata ?? {}), cell, hasIds(document.metadata));
  if (cell.cell_type !== "code") return data;
  data.outputs = old === undefined ? (inserted?.outputs ?? []).map(toEditorOutput) : [...old.outputs];
  const order = old?.executionSummary?.executionOrder ?? inserted?.execution_count;
  if (old?.executionSummary !== undefined) data.executionSummary = old.executionSummary;
  else if (typeof order === "number") data.executionSummary = { executionOrder: order };
  return data;
}

function languageOf(document: vscode.NotebookDocument, cell: Cell, old: vscode.NotebookCell | undefined): string {
  if (cell.cell_type === "markdown") return "markdown";
  if (cell.cell_type === "raw") return "raw";
  const isCode = (one: vscode.NotebookCell): boolean => one.kind === vscode.NotebookCellKind.Code && one.document.languageId !== "raw";
  if (old !== undefined && isCode(old)) return old.document.languageId;
  const other = document.getCells().find(isCode);
  const { language_info: info } = ((document.metadata["metadata"] ?? {}) as { language_info?: { name?: string } });
  return other?.document.languageId ?? info?.name ?? "python";
}
