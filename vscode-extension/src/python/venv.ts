import { mkdir, readdir, readFile, rename, rm, stat, statfs, utimes, writeFile } from "node:fs/promises";
import { join } from "node:path";
import { type Bundle, BrokenBundle, folderName, servesOffline } from "./bundle";
import type { Interpreter } from "./find";
import { withLock } from "./lock";
import { type Ended, isolated, NotStarted, run } from "./process";

/** Where dependencies come from: the wheels that the extension carries, the user's package index, or whichever fits. */
export type Source = "auto" | "bundled" | "index";

export type FailureKind = "disk-full" | "index" | "offline" | "broken" | "venv" | "check";

/** The set-up ended without a server; nothing of it is left. */
export class SetupFailed extends Error {
  override readonly name = "SetupFailed";
  constructor(
    readonly kind: FailureKind,
    readonly details: string,
  ) {
    super(`${kind}: ${details}`);
  }
}

/** What is being done; of packages, how many the installer has taken up. */
export interface Step {
  readonly name: "waiting" | "environment" | "packages" | "check";
  readonly count?: { readonly done: number; readonly of: number };
}

export interface SetupRequest {
  /** The extension's own storage; the server's environments are in `server` below it. */
  readonly storage: string;
  readonly bundle: Bundle;
  readonly interpreter: Interpreter;
  readonly source: Source;
  readonly signal: AbortSignal;
  readonly report: (step: Step) => void;
  readonly log: (line: string) => void;
  readonly env?: NodeJS.ProcessEnv;
}

/** An environment that is whole. */
export interface Installed {
  readonly python: string;
  readonly version: string;
  readonly folder: string;
}

const MARKER = "installed.json";
const SCRATCH = ".new-";
const NEEDED_BYTES = 120 * 2 ** 20;
const KEPT_DAYS = 14;
const CHECK_MILLISECONDS = 60_000;

/** The Python inside an environment. */
export function pythonOf(folder: string): string {
  return process.platform === "win32" ? join(folder, "Scripts", "python.exe") : join(folder, "bin", "python");
}

/** The environment of this wheel and Python, if it is whole. */
export async function installed(storage: string, bundle: Bundle, interpreter: Interpreter): Promise<Installed | undefined> {
  return await readInstalled(join(storage, "server", folderName(bundle, interpreter)));
}

/** The environment of this wheel for whatever Python it was made, the latest used: no Python is asked for that. */
export async function installedForAny(storage: string, bundle: Bundle): Promise<Installed | undefined> {
  const server = join(storage, "server");
  const prefix = folderName(bundle, { version: [0, 0, 0] } as unknown as Interpreter).split("-")[0] ?? "";
  for (const { folder } of await environments(server)) {
    const found = folder.startsWith(join(server, `${prefix}-`)) ? await readInstalled(folder) : undefined;
    if (found !== undefined) return found;
  }
  return undefined;
}

async function readInstalled(folder: string): Promise<Installed | undefined> {
  const text = await readFile(join(folder, MARKER), "utf8").catch(() => undefined);
  if (text === undefined) return undefined;
  // The base Python may have been removed since: the link is there, what it leads to is not.
  const python = pythonOf(folder);
  if (!(await stat(python).then(() => true, () => false))) return undefined;
  const now = new Date();
  await utimes(join(folder, MARKER), now, now).catch(() => undefined);
  return { python, folder, version: (JSON.parse(text) as { version: string }).version };
}

/**
 * Make the environment of the server, unless it is there, and remove what no window used for two weeks.
 *
 * It is built apart and put into place by one rename: what is in place is whole, whenever the editor was killed.
 *
 * @throws SetupFailed, or the signal's reason; then nothing has changed.
 */
export async function setUp(request: SetupRequest): Promise<Installed> {
  const server = join(request.storage, "server");
  const target = join(server, folderName(request.bundle, request.interpreter));
  try {
    await mkdir(server, { recursive: true });
    request.report({ name: "waiting" });
    return await withLock(join(server, "lock"), request.signal, async () => {
      const there = await readInstalled(target);
      if (there !== undefined) return there;
      await removeScratch(server);
      const scratch = join(server, `${SCRATCH}${String(process.pid)}-${Date.now().toString(36)}`);
      try {
        await build(request, scratch);
        await rm(target, { recursive: true, force: true });
        await rename(scratch, target);
      } finally {
        await rm(scratch, { recursive: true, force: true });
      }
      await removeOld(server, target);
      return { python: pythonOf(target), folder: target, version: request.bundle.version };
    });
  } catch (error) {
    throw await translated(error, server);
  }
}

/** Remove the environment of this wheel and Python, so that the next set-up makes it anew. */
export async function discard(storage: string, bundle: Bundle, interpreter: Interpreter): Promise<void> {
  const target = join(storage, "server", folderName(bundle, interpreter));
  await rm(join(target, MARKER), { force: true });
  await rm(target, { recursive: true, force: true });
}

async function build(request: SetupRequest, scratch: string): Promise<void> {
  const { bundle, interpreter, signal, log } = request;
  const env = isolated(request.env ?? process.env);
  const python = pythonOf(scratch);
  request.report({ name: "environment" });
  await expectFine(run(interpreter.path, ["-I", "-m", "venv", "--without-pip", scratch], { signal, env }), "venv", log);
  request.report({ name: "packages" });
  await writeFile(join(scratch, "requirements.txt"), withWheel(bundle));
  const offline = request.source === "bundled" || (request.source === "auto" && servesOffline(bundle, interpreter));
  if (offline && !servesOffline(bundle, interpreter)) {
    const have = bundle.houseTags.join(", ");
    throw new SetupFailed("offline", `Python ${interpreter.version.join(".")}; ${have === "" ? "no wheels are bundled" : `bundled: ${have}`}`);
  }
  const onLine = counted(withWheel(bundle), request);
  await expectFine(run(python, pipArguments(bundle, scratch, offline), { signal, env, onLine }), offline ? "broken" : "index", log);
  request.report({ name: "check" });
  const check = run(python, ["-I", "-m", "mcp_server_jupyter", "--version"], { signal, env, timeout: CHECK_MILLISECONDS });
  await expectFine(check, "check", log);
  const marker = { version: bundle.version, wheel: bundle.hash, python: interpreter.path, made: new Date().toISOString() };
  await writeFile(join(scratch, MARKER), JSON.stringify(marker));
}

function withWheel(bundle: Bundle): string {
  return `${bundle.requirements.trimEnd()}\n${pathLine(bundle.wheel)} --hash=sha256:${bundle.hash}\n`;
}

/** Tells of each package that pip takes up, or leaves out on this platform, and keeps all it says. */
function counted(requirements: string, { report, log }: SetupRequest): (line: string) => void {
  const of = requirements.split("\n").filter((line) => /^[\w.-]+(\[[\w,.-]+\])? ?(==|@)/.test(line)).length;
  let done = 0;
  return (line) => {
    log(line);
    if (!/^(Collecting|Processing|Ignoring) \S/.test(line)) return;
    done = Math.min(done + 1, of);
    report({ name: "packages", count: { done, of } });
  };
}

/** A requirement by path: blanks and the like as in an address. */
function pathLine(path: string): string {
  const address = encodeURI(path.replaceAll("\\", "/")).replaceAll("#", "%23").replaceAll("?", "%3F");
  return `mcp-server-jupyter @ file://${address.startsWith("/") ? "" : "/"}${address}`;
}

/** What pip is called with: by hash, no builds, and nothing asked of any index where the wheels are here. */
export function pipArguments(bundle: Bundle, scratch: string, offline: boolean): string[] {
  const from = offline && bundle.wheelhouse !== undefined ? ["--no-index", "--find-links", bundle.wheelhouse] : [];
  return [
    "-I", join(bundle.pip, "pip"), "install", "--no-input", "--disable-pip-version-check", "--no-cache-dir", "--progress-bar", "off",
    "--only-binary", ":all:", "--require-hashes", "--no-deps", "--no-compile", "--retries", "1", "--timeout", "15", ...from, "-r", join(scratch, "requirements.txt"),
  ];
}

async function expectFine(ending: Promise<Ended>, kind: FailureKind, log: (line: string) => void): Promise<void> {
  const ended = await ending;
  if (ended.code === 0) return;
  const text = `${ended.stdout}\n${ended.stderr}`.trim();
  log(text);
  throw new SetupFailed(kind, lastLines(text));
}

/** What a program said last: of an installer's lines the one that says why, as a sentence. */
function lastLines(text: string): string {
  const lines = text.split("\n").map((line) => line.trim()).filter((line) => line !== "");
  const why = lines.findLast((line) => line.startsWith("ERROR: "))?.slice("ERROR: ".length);
  const said = why ?? lines.slice(-3).join(" ").slice(-600);
  return /[.!?]$/.test(said) ? said : `${said}.`;
}

async function translated(error: unknown, server: string): Promise<unknown> {
  const code = (error as NodeJS.ErrnoException | undefined)?.code;
  if (code === "ENOSPC" || code === "EDQUOT") return new SetupFailed("disk-full", server);
  if (error instanceof SetupFailed && error.kind !== "offline") {
    const space = await statfs(server).catch(() => undefined);
    if (space !== undefined && space.bavail * space.bsize < NEEDED_BYTES) return new SetupFailed("disk-full", server);
  }
  if (error instanceof BrokenBundle) return new SetupFailed("broken", error.message);
  if (error instanceof NotStarted) return new SetupFailed("venv", error.message);
  return error;
}

async function environments(server: string): Promise<{ folder: string; used: number }[]> {
  const names = await readdir(server).catch(() => []);
  const found = await Promise.all(
    names
      .filter((name) => /^[0-9a-f]{12}-3\.\d+$/.test(name))
      .map(async (name) => {
        const folder = join(server, name);
        return { folder, used: await stat(join(folder, MARKER)).then((marker) => marker.mtimeMs, () => 0) };
      }),
  );
  return found.sort((one, other) => other.used - one.used);
}

/** The one before is kept, for servers that still run from it and for whoever goes back; others for a while. */
async function removeOld(server: string, current: string): Promise<void> {
  const others = (await environments(server)).filter(({ folder }) => folder !== current);
  const oldest = Date.now() - KEPT_DAYS * 86_400_000;
  for (const { folder, used } of others.slice(1)) {
    if (used < oldest) await rm(folder, { recursive: true, force: true }).catch(() => undefined);
  }
}

/** What a killed set-up left; called under the lock. */
async function removeScratch(server: string): Promise<void> {
  for (const name of await readdir(server)) {
    if (name.startsWith(SCRATCH)) await rm(join(server, name), { recursive: true, force: true });
  }
}
