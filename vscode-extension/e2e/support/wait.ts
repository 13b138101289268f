/** Waiting for what another process will do: asked again and again, up to a limit, with the last answer in the error. */
export async function until<T>(
  what: string,
  look: () => T | Promise<T>,
  { seconds = 60, every = 100 }: { seconds?: number; every?: number } = {},
): Promise<NonNullable<T> & (T extends false ? never : T)> {
  const end = Date.now() + seconds * 1000;
  let last: unknown;
  for (;;) {
    try {
      const value = await look();
      if (value) return value as NonNullable<T> & (T extends false ? never : T);
      last = value;
    } catch (error) {
      last = error;
    }
    if (Date.now() > end) throw new Error(`Not within ${seconds} s: ${what}. The last look: ${String(last)}`);
    await pause(every);
  }
}

export function pause(milliseconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, milliseconds));
}
