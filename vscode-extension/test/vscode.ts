/** Stands in for the editor's module, which exists in the editor alone: the words of sentences, nothing else. */
export const l10n = {
  t: (text: string, ...values: unknown[]): string => text.replaceAll(/\{(\d)\}/g, (_, at: string) => String(values[Number(at)])),
};
