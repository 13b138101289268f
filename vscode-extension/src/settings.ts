import * as vscode from "vscode";
import type { Source } from "./python/venv";
import type { RunPolicy } from "./server/protocol";

export const SECTION = "mcp-server-jupyter";

export type ShareOnOpen = "whenAlone" | "always" | "never";

function value<T>(name: string, otherwise: T): T {
  return vscode.workspace.getConfiguration(SECTION).get<T>(name) ?? otherwise;
}

/**
 * What the user has set. Those that decide what runs on the machine have the scope `machine`; read here without what a
 * workspace says, so that a repository cannot loosen them even where an editor lets it write them.
 */
function own<T>(name: string, otherwise: T): T {
  const found = vscode.workspace.getConfiguration(SECTION).inspect<T>(name);
  return found?.globalValue ?? found?.defaultValue ?? otherwise;
}

export const settings = {
  pythonPath: (): string => own("python.path", ""),
  installSource: (): Source => own<Source>("install.source", "auto"),
  agentsRun: (): RunPolicy => own<RunPolicy>("agents.run", "allow"),
  shareOnOpen: (): ShareOnOpen => value<ShareOnOpen>("share.onOpen", "whenAlone"),
  staleMarks: (): boolean => value("cells.showStaleMarks", true),
  lingerMinutes: (): number => own("server.idleShutdownMinutes", 60),
  maxOutputBytes: (): number => own("output.maxBytes", 33_554_432),
};
