import { setTimeout as sleep } from "node:timers/promises";
import { type Client, Refused } from "./client";
import type { SseEvent } from "./sse";

/** A stream that is taken up again whenever it is cut off. */
export interface Followed {
  /** The server to follow: the one there is, or the next. May take long; is asked before each connection. */
  readonly connect: (attempt: number) => Promise<Client>;
  readonly path: string;
  readonly onEvent: (event: SseEvent) => void;
  /** The stream stands, or not any more and why. */
  readonly onState: (connected: boolean, error?: unknown) => void;
  readonly signal: AbortSignal;
}

const PAUSES = [0, 250, 1_000, 2_000, 5_000];

/** Follow until the signal. What the server refuses (another protocol, a wrong token) ends it. */
export async function follow(options: Followed): Promise<void> {
  const { signal } = options;
  let lastId: string | undefined;
  const isOver = (): boolean => signal.aborted;
  for (let attempt = 0; !isOver(); attempt++) {
    try {
      await sleep(PAUSES[Math.min(attempt, PAUSES.length - 1)], undefined, { signal });
      const client = await options.connect(attempt);
      for await (const event of client.events(options.path, lastId, signal, () => options.onState(true))) {
        attempt = 0;
        lastId = event.id ?? lastId;
        options.onEvent(event);
      }
      options.onState(false);
    } catch (error) {
      if (isOver()) return;
      options.onState(false, error);
      if (error instanceof Refused && error.status < 500 && error.status !== 429) throw error;
    }
  }
}
