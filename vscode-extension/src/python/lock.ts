import { randomUUID } from "node:crypto";
import { open, readFile, rename, rm, stat, utimes } from "node:fs/promises";
import { setTimeout as sleep } from "node:timers/promises";

const BEAT = 2_000;
const STALE = 10_000;
const LOOK_AGAIN = 200;

/**
 * Do `work` while no other window does what is locked at `path`, waiting for the one that does.
 *
 * Its holder touches the file; one that has not for 10 s was killed. Two that find that out at the same moment could
 * both go on, so `work` must do no harm when done twice: it builds apart and puts into place by one rename.
 */
export async function withLock<T>(path: string, signal: AbortSignal, work: () => Promise<T>, stale = STALE): Promise<T> {
  const token = randomUUID();
  while (!(await take(path, token))) {
    await steal(path, stale);
    await sleep(LOOK_AGAIN, undefined, { signal });
  }
  const beat = setInterval(() => {
    const now = new Date();
    utimes(path, now, now).catch(() => undefined);
  }, BEAT);
  try {
    return await work();
  } finally {
    clearInterval(beat);
    const holder = await readFile(path, "utf8").catch(() => "");
    if (holder === token) await rm(path, { force: true });
  }
}

async function take(path: string, token: string): Promise<boolean> {
  try {
    const file = await open(path, "wx");
    try {
      await file.writeFile(token);
    } finally {
      await file.close();
    }
    return true;
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === "EEXIST") return false;
    throw error;
  }
}

async function steal(path: string, stale: number): Promise<void> {
  const age = await stat(path).then((found) => Date.now() - found.mtimeMs, () => 0);
  if (age < stale) return;
  const aside = `${path}.${randomUUID()}`;
  // Of several that try, one renames it; the others find it gone.
  await rename(path, aside).then(() => rm(aside, { force: true }), () => undefined);
}
