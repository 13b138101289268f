import { spawn } from "node:child_process";

/** How a program ended, with all it printed. */
export interface Ended {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** A program that could not be started at all. */
export class NotStarted extends Error {
  override readonly name = "NotStarted";
}

export interface RunOptions {
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds after which it is ended. */
  readonly timeout?: number;
  readonly env?: NodeJS.ProcessEnv;
  readonly cwd?: string;
  readonly onLine?: (line: string) => void;
}

const KILL_AFTER = 2_000;

/**
 * Run a program to its end: an argument vector, never a shell.
 *
 * @throws NotStarted when there is no such program; the signal's reason when it was aborted.
 */
export async function run(program: string, args: readonly string[], options: RunOptions = {}): Promise<Ended> {
  options.signal?.throwIfAborted();
  return await new Promise<Ended>((resolve, reject) => {
    const child = spawn(program, args, {
      cwd: options.cwd,
      env: options.env ?? process.env,
      stdio: ["ignore", "pipe", "pipe"],
      windowsHide: true,
    });
    let stdout = "";
    let stderr = "";
    let rest = "";
    let killer: NodeJS.Timeout | undefined;
    const end = (): void => {
      child.kill("SIGTERM");
      killer ??= setTimeout(() => child.kill("SIGKILL"), KILL_AFTER);
    };
    const timer = options.timeout === undefined ? undefined : setTimeout(end, options.timeout);
    options.signal?.addEventListener("abort", end, { once: true });
    const done = (): void => {
      clearTimeout(timer);
      clearTimeout(killer);
      options.signal?.removeEventListener("abort", end);
    };
    child.stdout.setEncoding("utf8").on("data", (text: string) => {
      stdout += text;
      if (options.onLine === undefined) return;
      const lines = (rest + text).split("\n");
      rest = lines.pop() ?? "";
      lines.forEach(options.onLine);
    });
    child.stderr.setEncoding("utf8").on("data", (text: string) => (stderr += text));
    child.on("error", (error) => {
      done();
      reject(new NotStarted(`${program} does not start: ${error.message}`, { cause: error }));
    });
    child.on("close", (code) => {
      done();
      if (options.signal?.aborted === true) reject(options.signal.reason as Error);
      else resolve({ code, stdout, stderr });
    });
  });
}

const EDITOR_VARIABLES = /^(VSCODE_|ELECTRON_|NODE_OPTIONS$)/;
const PYTHON_VARIABLES = /^(PYTHON(HOME|PATH|STARTUP|INSPECT|EXECUTABLE)|VIRTUAL_ENV|__PYVENV_LAUNCHER__|PIP_(USER|TARGET|PREFIX|REQUIRE_VIRTUALENV|REQUIRE_HASHES|NO_INDEX|FIND_LINKS))$/;

/** The environment without what the editor put there: it makes libraries take the kernel for the editor itself. */
export function withoutEditor(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(env).filter(([name]) => !EDITOR_VARIABLES.test(name)));
}

/** The environment for an interpreter of our own: nothing of another Python's, or of the editor's. */
export function isolated(env: NodeJS.ProcessEnv): NodeJS.ProcessEnv {
  return Object.fromEntries(Object.entries(withoutEditor(env)).filter(([name]) => !PYTHON_VARIABLES.test(name)));
}
