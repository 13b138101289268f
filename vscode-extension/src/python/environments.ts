import { existsSync } from "node:fs";
import { basename, dirname, join } from "node:path";
import * as vscode from "vscode";
import type { Candidate } from "./find";

/** A Python that a person may choose for a notebook's kernel. */
export interface Environment {
  readonly python: string;
  readonly name: string;
}

interface EnvironmentsApi {
  getEnvironments(scope: "all"): Promise<readonly { displayName: string; execInfo: { run: { executable: string } } }[]>;
  getEnvironment(scope: vscode.Uri | undefined): Promise<{ execInfo: { run: { executable: string } } } | undefined>;
}

interface PythonApi {
  readonly environments: {
    readonly known: readonly { readonly path: string; readonly environment?: { readonly name?: string } }[];
    getActiveEnvironmentPath(resource?: vscode.Uri): { readonly path: string };
  };
}

/** An extension's API, when it is there and answers; neither is needed. */
async function api<T>(id: string): Promise<T | undefined> {
  const extension = vscode.extensions.getExtension<T>(id);
  try {
    return extension === undefined ? undefined : await extension.activate();
  } catch {
    return undefined;
  }
}

const ENVIRONMENTS = "ms-python.vscode-python-envs";
const PYTHON = "ms-python.python";

/** The interpreter chosen in the editor for a resource; undefined when no extension keeps one. */
export async function chosenInterpreter(resource: vscode.Uri | undefined): Promise<string | undefined> {
  const environments = await api<EnvironmentsApi>(ENVIRONMENTS);
  const chosen = await environments?.getEnvironment(resource).catch(() => undefined);
  if (chosen !== undefined) return existing(chosen.execInfo.run.executable);
  const python = await api<PythonApi>(PYTHON);
  return existing(python?.environments.getActiveEnvironmentPath(resource).path);
}

/** What the Python extensions know, and virtual environments in the folders that are open. */
export async function environmentsFor(folders: readonly string[]): Promise<Environment[]> {
  const found = new Map<string, Environment>();
  const add = (python: string | undefined, name: string): void => {
    if (python !== undefined && !found.has(python)) found.set(python, { python, name });
  };
  for (const folder of folders) {
    for (const name of [".venv", "venv", "env"]) add(existing(pythonIn(join(folder, name))), `${name} (${basename(folder)})`);
  }
  const environments = await api<EnvironmentsApi>(ENVIRONMENTS);
  for (const one of (await environments?.getEnvironments("all").catch(() => [])) ?? []) add(existing(one.execInfo.run.executable), one.displayName);
  const python = await api<PythonApi>(PYTHON);
  for (const one of python?.environments.known ?? []) add(existing(one.path), one.environment?.name ?? basename(dirname(dirname(one.path))));
  return [...found.values()];
}

/** Interpreters that the editor's other extensions know, for the server's own environment. */
export async function* knownInterpreters(): AsyncGenerator<Candidate> {
  const chosen = await chosenInterpreter(undefined);
  if (chosen !== undefined) yield { path: chosen, from: "the Python extension" };
}

function pythonIn(environment: string): string {
  return process.platform === "win32" ? join(environment, "Scripts", "python.exe") : join(environment, "bin", "python");
}

/** Some hand out a folder or nothing at all. */
function existing(path: string | undefined): string | undefined {
  return path !== undefined && path !== "" && path.includes("python") && existsSync(path) ? path : undefined;
}
