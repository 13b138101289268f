/** Stands in for the editor's module, which exists in the editor alone: the words of sentences, and plain values. */
export const l10n = {
  t: (text: string, ...values: unknown[]): string => text.replaceAll(/\{(\d)\}/g, (_, at: string) => String(values[Number(at)])),
};

export class NotebookCellOutputItem {
  constructor(
    readonly data: Uint8Array,
    readonly mime: string,
  ) {}
}

export class NotebookCellOutput {
  constructor(
    readonly items: NotebookCellOutputItem[],
    readonly metadata?: Record<string, unknown>,
  ) {}
}
