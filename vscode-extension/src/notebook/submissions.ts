import { Cancelled } from "../errors";
import { Refused } from "../server/client";
import { InOrder } from "../server/order";

const START_PAUSE = 150;

/** What a person has asked to run in one notebook and no kernel has taken yet: one after the other, until it is stopped. */
export class Submissions {
  private readonly order = new InOrder();
  private readonly waiting = new Set<AbortController>();

  constructor(private readonly words: string) {}

  /**
   * Do this after what was asked for before.
   *
   * @param work has to look at the signal before every step that can still be left undone.
   * @throws Cancelled at once when it is stopped, whatever the work waits for.
   */
  async do(work: (signal: AbortSignal) => Promise<void>): Promise<void> {
    const stop = new AbortController();
    const { signal } = stop;
    this.waiting.add(stop);
    const done = this.order.do(async () => {
      signal.throwIfAborted();
      await work(signal);
    });
    const stopped = new Promise<never>((_, reject) => signal.addEventListener("abort", () => reject(signal.reason as Cancelled)));
    try {
      await Promise.race([done, stopped]);
    } finally {
      this.waiting.delete(stop);
    }
  }

  /** Stop all that waits; whether anything did. */
  stop(): boolean {
    const stopped = [...this.waiting];
    for (const one of stopped) one.abort(new Cancelled(this.words));
    return stopped.length > 0;
  }
}

/** When to give up a start, and whom to tell how far it is. */
export interface Patience {
  /** @param since how long it is waited for, in milliseconds. */
  isEnough(since: number): boolean;
  report?(words: string): void;
}

/**
 * Ask again and again while the kernel is starting; nothing is asked for once it is stopped.
 *
 * @returns nothing when it is enough.
 * @throws the signal's reason, and whatever else the server says.
 */
export async function joins<T>(ask: () => Promise<T>, signal: AbortSignal, patience: Patience): Promise<{ answer: T } | undefined> {
  const began = Date.now();
  do {
    signal.throwIfAborted();
    try {
      return { answer: await ask() };
    } catch (error) {
      if (!(error instanceof Refused && error.code === "kernel_starting")) throw error;
      patience.report?.(error.message);
    }
    await new Promise((resolve) => setTimeout(resolve, START_PAUSE));
  } while (!patience.isEnough(Date.now() - began));
  return undefined;
}
