/** Notebook files, as nbformat 4.5 has them. */
import { readFileSync, writeFileSync } from "node:fs";

export interface Cell {
  id: string;
  cell_type: "code" | "markdown";
  source: string;
  outputs: Output[];
  execution_count: number | null;
}

export interface Output {
  output_type: string;
  text?: string | string[];
  data?: Record<string, unknown>;
  ename?: string;
}

interface File {
  cells: (Omit<Cell, "source" | "outputs"> & { source: string | string[]; outputs?: Output[] })[];
  metadata: Record<string, unknown>;
}

/** Write a notebook of these code cells, whose ids are c0, c1, …. A text that begins with "# %md" is Markdown. */
export function writeNotebook(file: string, sources: string[]): void {
  const cells = sources.map((source, index) => {
    const common = { id: `c${index}`, metadata: {}, source: source.replace(/^# %md\n/, "").split(/(?<=\n)/) };
    return source.startsWith("# %md\n")
      ? { cell_type: "markdown", ...common }
      : { cell_type: "code", ...common, execution_count: null, outputs: [] };
  });
  const kernelspec = { name: "python3", display_name: "Python 3 (ipykernel)", language: "python" };
  const notebook = { cells, metadata: { kernelspec, language_info: { name: "python" } }, nbformat: 4, nbformat_minor: 5 };
  writeFileSync(file, `${JSON.stringify(notebook, null, 1)}\n`);
}

export function readCells(file: string): Cell[] {
  const notebook = JSON.parse(readFileSync(file, "utf8")) as File;
  return notebook.cells.map((cell) => ({ ...cell, source: joined(cell.source), outputs: cell.outputs ?? [] }));
}

/** All text that a cell printed, with the plain text of its displays and results. */
export function textOf(cell: Cell | undefined): string {
  return (cell?.outputs ?? [])
    .map((output) => joined(output.text ?? (output.data?.["text/plain"] as string | string[] | undefined) ?? ""))
    .join("");
}

function joined(text: string | string[]): string {
  return Array.isArray(text) ? text.join("") : text;
}
