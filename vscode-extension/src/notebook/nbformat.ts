import type { CellType, CellValue, Json, JsonObject } from "../server/protocol";
import type { Cell, Sheet } from "./cells";
import { parsed, type Shown } from "./outputs";

/** A cell of an open document, as the editor's own notebook format keeps it. */
export interface DocCell {
  readonly isMarkup: boolean;
  readonly languageId: string;
  readonly text: string;
  readonly metadata: JsonObject;
  readonly outputs: readonly Shown[];
  readonly executionOrder: number | undefined;
}

export function cellType(cell: Pick<DocCell, "isMarkup" | "languageId">): CellType {
  if (cell.isMarkup) return "markdown";
  return cell.languageId === "raw" ? "raw" : "code";
}

/** The id that a notebook of format 4.5 gives a cell. */
export function ownId(metadata: JsonObject): string | undefined {
  const { id } = metadata;
  return typeof id === "string" && id !== "" ? id : undefined;
}

/** What is compared and told of a cell. */
export function toCell(cell: DocCell, id: string): Cell {
  const attachments = object(cell.metadata["attachments"]);
  return {
    id,
    cell_type: cellType(cell),
    source: cell.text.replaceAll("\r\n", "\n"),
    metadata: object(cell.metadata["metadata"]) ?? {},
    ...(attachments === undefined ? {} : { attachments }),
  };
}

/** The document's own metadata: what a notebook file has at its top. */
export function toMetadata(metadata: JsonObject): JsonObject {
  return object(metadata["metadata"]) ?? {};
}

/** A whole notebook, for a document with unsaved changes. */
export function toNotebook(metadata: JsonObject, cells: readonly DocCell[], ids: readonly string[]): JsonObject {
  const { nbformat, nbformat_minor: minor } = metadata;
  return {
    nbformat: typeof nbformat === "number" ? nbformat : 4,
    nbformat_minor: typeof minor === "number" ? minor : 5,
    metadata: toMetadata(metadata),
    cells: cells.map((cell, at) => toValue(cell, ids[at] ?? "") as unknown as Json),
  };
}

function toValue(cell: DocCell, id: string): CellValue {
  const value: CellValue = { ...toCell(cell, id) };
  if (value.cell_type !== "code") return value;
  return { ...value, execution_count: cell.executionOrder ?? null, outputs: cell.outputs.map(parsed) };
}

/** The editor's metadata for a cell of ours; what else it keeps there stays. */
export function withCell(metadata: JsonObject, cell: Pick<CellValue, "id" | "metadata" | "attachments">, keepsIds: boolean): JsonObject {
  const { attachments, ...others } = metadata;
  const kept = cell.attachments ?? attachments;
  return { ...others, ...(keepsIds ? { id: cell.id } : {}), metadata: cell.metadata, ...(kept === undefined ? {} : { attachments: kept }) };
}

/** Whether the file's format has ids for cells (4.5 and later). */
export function hasIds(metadata: JsonObject): boolean {
  const { nbformat, nbformat_minor: minor } = metadata;
  if (typeof nbformat !== "number" || typeof minor !== "number") return true;
  return nbformat > 4 || (nbformat === 4 && minor >= 5);
}

export function kernelspecName(sheet: Sheet): string | undefined {
  const name = object(sheet.metadata["kernelspec"])?.["name"];
  return typeof name === "string" && name !== "" ? name : undefined;
}

function object(value: Json | undefined): JsonObject | undefined {
  return typeof value === "object" && value !== null && !Array.isArray(value) ? value : undefined;
}

interface FileCell {
  readonly cell_type?: unknown;
  readonly source?: unknown;
  readonly execution_count?: unknown;
}

/** Whether a file has the same cells as a document, and shows every run that the document shows. */
export function hasOnlyRunsOf(cells: readonly DocCell[], file: string): boolean {
  let saved: readonly FileCell[];
  try {
    saved = (JSON.parse(file) as { cells?: readonly FileCell[] }).cells ?? [];
  } catch {
    return false; // It is being written.
  }
  return saved.length === cells.length && cells.every((cell, at) => isSame(cell, saved[at] ?? {}));
}

function isSame(cell: DocCell, { cell_type: type, source, execution_count: count }: FileCell): boolean {
  const text = Array.isArray(source) ? source.join("") : source;
  if (type !== cellType(cell) || text !== cell.text.replaceAll("\r\n", "\n")) return false;
  return cell.executionOrder === undefined || count === cell.executionOrder;
}
