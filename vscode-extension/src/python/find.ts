import { existsSync } from "node:fs";
import { delimiter, join } from "node:path";
import { isolated, NotStarted, run } from "./process";

/** A Python that answered. */
export interface Interpreter {
  readonly path: string;
  readonly version: readonly [number, number, number];
  readonly implementation: string;
  readonly hasVenv: boolean;
  readonly hasIpykernel: boolean;
}

/** Where a Python may be, and who says so. */
export interface Candidate {
  readonly path: string;
  readonly from: string;
}

/** Why a candidate is not used. */
export interface Rejected extends Candidate {
  readonly why: "missing" | "failed" | "old" | "incomplete";
  readonly version?: string;
}

export interface Search {
  readonly found: Interpreter | undefined;
  readonly rejected: readonly Rejected[];
}

/** The oldest Python that the server runs on. */
export const OLDEST = [3, 11] as const;

const PROBE = [
  "import importlib.util as u, json, sys",
  "print(json.dumps([sys.executable, list(sys.version_info[:3]), sys.implementation.name,",
  " u.find_spec('venv') is not None, u.find_spec('ipykernel') is not None]))",
].join("\n");
const PROBE_MILLISECONDS = 10_000;
const NEWEST_MINOR = 14;

/** Ask a Python who it is; undefined when it is none. */
export async function probe(path: string, signal?: AbortSignal): Promise<Interpreter | undefined> {
  try {
    const ended = await run(path, ["-I", "-c", PROBE], { signal, timeout: PROBE_MILLISECONDS, env: isolated(process.env) });
    return ended.code === 0 ? parseProbe(path, ended.stdout) : undefined;
  } catch (error) {
    if (error instanceof NotStarted) return undefined;
    throw error;
  }
}

/** What a probe printed; undefined when it is not ours. */
export function parseProbe(path: string, text: string): Interpreter | undefined {
  let answer: unknown;
  try {
    answer = JSON.parse(text.trim().split("\n").at(-1) ?? "");
  } catch {
    return undefined;
  }
  if (!Array.isArray(answer)) return undefined;
  const [executable, version, implementation, hasVenv, hasIpykernel] = answer as unknown[];
  if (!Array.isArray(version) || version.length !== 3 || !version.every((part) => typeof part === "number")) return undefined;
  return {
    path: typeof executable === "string" && executable !== "" ? executable : path,
    version: version as unknown as [number, number, number],
    implementation: String(implementation),
    hasVenv: hasVenv === true,
    hasIpykernel: hasIpykernel === true,
  };
}

/** Whether the server runs on it. */
export function isNewEnough(version: readonly number[]): boolean {
  const [major = 0, minor = 0] = version;
  return major > OLDEST[0] || (major === OLDEST[0] && minor >= OLDEST[1]);
}

/** Every Python on a search path, the newest names first, then the usual places that graphical programs do not see. */
export function onPath(searchPath: string, platform: NodeJS.Platform, exists: (path: string) => boolean = existsSync): Candidate[] {
  const suffix = platform === "win32" ? ".exe" : "";
  const names = Array.from({ length: NEWEST_MINOR - OLDEST[1] + 1 }, (_, at) => `python3.${String(NEWEST_MINOR - at)}`);
  names.push("python3", "python");
  const usual = platform === "win32" ? [] : ["/opt/homebrew/bin", "/usr/local/bin", "/usr/bin"];
  const folders = [...new Set([...searchPath.split(delimiter).filter((folder) => folder !== ""), ...usual])];
  const found: Candidate[] = [];
  for (const name of names) {
    for (const folder of folders) {
      const path = join(folder, name + suffix);
      // The store's stand-in opens a shop window instead of running.
      if (!/\\WindowsApps\\/i.test(path) && exists(path)) found.push({ path, from: "PATH" });
    }
  }
  return found;
}

/** The Python that uv knows, which may be one that is on no search path. Downloads nothing. */
export async function fromUv(searchPath: string, signal?: AbortSignal): Promise<Candidate[]> {
  const uv = searchPath
    .split(delimiter)
    .map((folder) => join(folder, process.platform === "win32" ? "uv.exe" : "uv"))
    .find((path) => existsSync(path));
  if (uv === undefined) return [];
  const oldest = OLDEST.join(".");
  const args = ["python", "find", "--no-project", "--no-python-downloads", `>=${oldest}`];
  const ended = await run(uv, args, { signal, timeout: PROBE_MILLISECONDS, env: isolated(process.env) });
  const path = ended.stdout.trim();
  return ended.code === 0 && path !== "" ? [{ path, from: "uv" }] : [];
}

/** The first candidate that the server can run on. */
export async function find(
  candidates: AsyncIterable<Candidate> | Iterable<Candidate>,
  ask: (path: string) => Promise<Interpreter | undefined> = probe,
): Promise<Search> {
  const rejected: Rejected[] = [];
  const seen = new Set<string>();
  for await (const candidate of candidates) {
    if (seen.has(candidate.path)) continue;
    seen.add(candidate.path);
    const interpreter = await ask(candidate.path);
    const why = refusal(interpreter);
    if (interpreter !== undefined && why === undefined) return { found: interpreter, rejected };
    const version = interpreter?.version.join(".");
    rejected.push({ ...candidate, why: why ?? "failed", ...(version === undefined ? {} : { version }) });
  }
  return { found: undefined, rejected };
}

function refusal(interpreter: Interpreter | undefined): Rejected["why"] | undefined {
  if (interpreter === undefined) return "failed";
  if (!isNewEnough(interpreter.version)) return "old";
  return interpreter.hasVenv && interpreter.implementation === "cpython" ? undefined : "incomplete";
}
