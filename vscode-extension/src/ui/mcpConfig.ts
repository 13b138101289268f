import * as vscode from "vscode";
import { Problem } from "../errors";
import type { Installation } from "../python/installation";
import { launcherPath } from "../python/launcher";
import { isolated, run } from "../python/process";

const { t } = vscode.l10n;

/** Clients that `config` knows, with their names for people. */
const CLIENTS: readonly (readonly [string, string])[] = [
  ["claude", "Claude Code"], ["codex", "Codex"], ["cursor", "Cursor"], ["vscode", "VS Code (mcp.json)"], ["claude-desktop", "Claude Desktop"],
  ["windsurf", "Windsurf"], ["generic", t("Another client")],
];

/** Put onto the clipboard what a client takes to reach this folder's notebooks, and say where it goes. */
export async function copyMcpConfig(installation: Installation, storage: string, root: string): Promise<void> {
  const picked = await vscode.window.showQuickPick(CLIENTS.map(([id, label]) => ({ id, label })), { title: t("Copy MCP Config for…") });
  if (picked === undefined) return;
  const { python } = await installation.ensure(true);
  const args = ["-I", "-m", "mcp_server_jupyter", "config", picked.id, "--root", root, "--command", launcherPath(storage)];
  const ended = await run(python, args, { env: isolated(process.env), timeout: 30_000 });
  if (ended.code !== 0) throw new Problem(t("The configuration could not be made: {0}", ended.stderr.trim()));
  await vscode.env.clipboard.writeText(ended.stdout);
  const where = /^For (.*):$/m.exec(ended.stderr)?.[1] ?? picked.label;
  void vscode.window.showInformationMessage(t("Copied. It goes into {0}.", where));
}
