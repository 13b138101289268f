import { release } from "node:os";
import * as vscode from "vscode";
import type { Log } from "../log";
import type { Documents } from "../notebook/documents";
import type { Installation } from "../python/installation";
import { isolated, run } from "../python/process";
import type { Servers } from "../server/registry";
import { settings } from "../settings";
import { words } from "../errors";
import { redact } from "./redact";

const DOCTOR_MILLISECONDS = 30_000;

export interface Subject {
  readonly installation: Installation;
  readonly servers: Servers;
  readonly documents: Documents;
  readonly log: Log;
  /** Of the extension. */
  readonly version: string;
  /** Folders of the extension's own, which may lie where a person's name is told, and what stands for them. */
  readonly names: ReadonlyMap<string, string>;
}

/** All that helps to find out what is wrong, safe to paste into a report: no tokens, names, sources or outputs. */
export async function diagnostics({ installation, servers, documents, log, version, names }: Subject): Promise<string> {
  const bundle = await installation.bundle().catch((error: unknown) => error);
  const lines = [
    "# Jupyter with Agents: diagnostics", "",
    `- extension ${version}, editor ${vscode.version} (${vscode.env.appName}, ${vscode.env.remoteName ?? "local"}, ${vscode.env.appHost})`,
    `- ${process.platform} ${release()} ${process.arch}, Node ${process.version}`,
    `- trusted: ${String(vscode.workspace.isTrusted)}; folders: ${String(vscode.workspace.workspaceFolders?.length ?? 0)}; Jupyter extension: ${String(vscode.extensions.getExtension("ms-toolsai.jupyter") !== undefined)}`,
    `- bundle: ${bundle instanceof Error ? bundle.message : JSON.stringify(summary(bundle))}`,
    `- set up: ${installation.current === undefined ? `no. ${installation.problem?.message ?? ""}` : `${installation.current.version} in ${installation.current.folder}`}`,
    `- settings: ${JSON.stringify({ source: settings.installSource(), agents: settings.agentsRun(), share: settings.shareOnOpen(), python: settings.pythonPath() !== "" })}`,
    "", "## Servers", "",
    ...servers.all().map(({ root, connected, problem, state }) =>
      `- ${root}: ${connected ? `version ${state.version}, ${String(state.kernels.size)} kernels, ${String(state.executions.size)} executions` : `not connected${problem === undefined ? "" : `: ${words(problem)}`}`}`),
    "", "## Notebooks", "",
    ...documents.all().map(({ document, isOwner, shared }) => `- ${String(document.cellCount)} cells; dirty ${String(document.isDirty)}; owner ${String(isOwner)}; shared ${String(shared)}`),
    "", "## Doctor", "", "```", await doctor(installation, servers), "```",
    "", "## Log", "", "```", ...log.tail().slice(-50), "```", "",
  ];
  const folders = servers.all().map(({ root }, at) => [root, `[folder ${String(at + 1)}]`] as const);
  const notebooks = documents.all().map(({ path }, at) => [path, `[notebook ${String(at + 1)}]`] as const);
  return redact(lines.join("\n"), new Map([...names, ...folders, ...notebooks]));
}

function summary(bundle: unknown): unknown {
  const { version, hash, houseTags } = bundle as { version: string; hash: string; houseTags: string[] };
  return { version, hash: hash.slice(0, 12), wheelsFor: houseTags };
}

async function doctor(installation: Installation, servers: Servers): Promise<string> {
  const { current } = installation;
  if (current === undefined) return "not set up";
  const root = servers.all()[0]?.root;
  const args = ["-I", "-m", "mcp_server_jupyter", "doctor", ...(root === undefined ? [] : ["--root", root])];
  try {
    const ended = await run(current.python, args, { timeout: DOCTOR_MILLISECONDS, env: isolated(process.env) });
    return `${ended.stdout}${ended.stderr}`.trim();
  } catch (error) {
    return words(error);
  }
}
