import { run, isolated } from "../python/process";
import { Client, Refused } from "./client";
import { API, type ServerRecord } from "./protocol";

/** What is known about how the server of a root is to be started. */
export interface StartOptions {
  /** The Python of the server's own environment. */
  readonly python: string;
  readonly root: string;
  /** The interpreter chosen in the editor: the default for kernels. */
  readonly interpreter: string | undefined;
  readonly lingerMinutes: number | undefined;
  readonly maxOutputBytes: number | undefined;
  readonly signal?: AbortSignal;
}

/** The server could not be started; the message is what it said. */
export class StartFailed extends Error {
  override readonly name = "StartFailed";
}

/** A server of this root speaks another protocol. */
export class OtherApi extends Error {
  override readonly name = "OtherApi";
  constructor(
    readonly version: string,
    readonly api: number | undefined,
  ) {
    super(`The server ${version} speaks the editor's protocol ${api === undefined ? "not at all" : String(api)}; this extension speaks ${String(API)}.`);
  }
}

const START_MILLISECONDS = 30_000;

/** The arguments of `up`. */
export function upArguments(options: StartOptions): string[] {
  const args = ["-I", "-m", "mcp_server_jupyter", "up", "--root", options.root];
  if (options.interpreter !== undefined) args.push("--python", options.interpreter);
  if (options.lingerMinutes !== undefined) args.push("--linger-minutes", String(options.lingerMinutes));
  if (options.maxOutputBytes !== undefined) args.push("--max-output-bytes", String(options.maxOutputBytes));
  return args;
}

/**
 * The root's server, found or started; it is never a child of ours, and outlives the window.
 *
 * @throws StartFailed when there is none afterwards.
 */
export async function up(options: StartOptions): Promise<ServerRecord> {
  const ended = await run(options.python, upArguments(options), {
    signal: options.signal, timeout: START_MILLISECONDS, env: isolated(process.env), cwd: options.root,
  });
  if (ended.code !== 0) throw new StartFailed(lastWords(ended.stderr) ?? `up ended with ${String(ended.code)}`);
  return parseRecord(ended.stdout);
}

/** What `up` printed. */
export function parseRecord(text: string): ServerRecord {
  try {
    const record = JSON.parse(text) as Partial<ServerRecord>;
    if (typeof record.url === "string" && typeof record.root === "string" && typeof record.version === "string") {
      return { pid: record.pid ?? 0, root: record.root, version: record.version, url: record.url, token: record.token ?? null };
    }
  } catch {
    // Told below, with what was printed.
  }
  throw new StartFailed(`up printed no record: ${text.slice(0, 200)}`);
}

/**
 * Refuse a server that this extension cannot talk to, before anything is asked of it.
 *
 * @throws OtherApi, Unreachable.
 */
export async function checkApi(client: Client, record: ServerRecord): Promise<void> {
  const { api } = await client.get<{ api?: number }>("/health", { timeout: 10_000 });
  if (api !== API) throw new OtherApi(record.version, api);
}

/** End the root's server and its kernels. */
export async function down(python: string, root: string): Promise<void> {
  const ended = await run(python, ["-I", "-m", "mcp_server_jupyter", "down", "--root", root], { timeout: 60_000, env: isolated(process.env) });
  if (ended.code !== 0) throw new StartFailed(lastWords(ended.stderr) ?? `down ended with ${String(ended.code)}`);
}

/** Whether `one` is an earlier version than `other`, by numbers. */
export function isOlder(one: string, other: string): boolean {
  const [left, right] = [numbers(one), numbers(other)];
  for (let at = 0; at < Math.max(left.length, right.length); at++) {
    const difference = (left[at] ?? 0) - (right[at] ?? 0);
    if (difference !== 0) return difference < 0;
  }
  return false;
}

/** Ask an older server to go once nothing runs; its kernels stay for the next. False when somebody runs it by hand. */
export async function retire(client: Client, when: "idle" | "now" = "idle"): Promise<boolean> {
  try {
    await client.post("/api/shutdown", { when });
    return true;
  } catch (error) {
    if (error instanceof Refused) return false;
    throw error;
  }
}

function numbers(version: string): number[] {
  return (/^\d+(\.\d+)*/.exec(version)?.[0] ?? "0").split(".").map(Number);
}

function lastWords(text: string): string | undefined {
  const lines = text.split("\n").filter((line) => line.trim() !== "");
  return lines.at(-1)?.replace(/^Error: /, "");
}
