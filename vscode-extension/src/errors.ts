/** What a person is told, and the button under it that mends it. */
export class Problem extends Error {
  override readonly name = "Problem";
  constructor(
    message: string,
    readonly button?: { readonly title: string; readonly command: string; readonly args?: readonly unknown[] },
    options?: ErrorOptions,
  ) {
    super(message, options);
  }
}

/** The person has stopped it. Nothing more is said. */
export class Cancelled extends Error {
  override readonly name = "Cancelled";
}

export function words(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
