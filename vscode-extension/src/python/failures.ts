import { mkdir, readFile, rm, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** Why the last set-up of one version failed; it is not tried again until somebody asks for it. */
export interface Failure {
  readonly version: string;
  readonly kind: string;
  readonly details: string;
  readonly at: string;
}

const NAME = "failure.json";

/** What is known of this version's last set-up; undefined when there is nothing against trying. */
export async function readFailure(storage: string, version: string): Promise<Failure | undefined> {
  const text = await readFile(join(storage, NAME), "utf8").catch(() => undefined);
  if (text === undefined) return undefined;
  try {
    const failure = JSON.parse(text) as Failure;
    return failure.version === version ? failure : undefined;
  } catch {
    return undefined;
  }
}

/** Note a failure; that it cannot be written, as on a full disk, is no second one. */
export async function noteFailure(storage: string, failure: Failure): Promise<void> {
  await mkdir(storage, { recursive: true }).catch(() => undefined);
  await writeFile(join(storage, NAME), JSON.stringify(failure)).catch(() => undefined);
}

export async function clearFailure(storage: string): Promise<void> {
  await rm(join(storage, NAME), { force: true });
}
