import * as vscode from "vscode";
import type { Disposable } from "../emitter";
import { realPath } from "../notebook/roots";
import type { Installation } from "../python/installation";
import { launcherPath } from "../python/launcher";

/** The editor gives a model at most 128 tools; each folder's server has 28. */
const MOST_FOLDERS = 3;

/** Folders with notebooks, the first ones, when the person trusts them. */
export async function notebookFolders(): Promise<string[]> {
  if (!vscode.workspace.isTrusted) return [];
  const found: string[] = [];
  for (const { uri } of vscode.workspace.workspaceFolders ?? []) {
    if (found.length === MOST_FOLDERS) break;
    if (uri.scheme !== "file") continue;
    const notebooks = await vscode.workspace.findFiles(new vscode.RelativePattern(uri, "**/*.ipynb"), "**/{node_modules,.venv,.git,.ipynb_checkpoints}/**", 1);
    const path = realPath(uri.fsPath);
    if (notebooks.length > 0 && !found.includes(path)) found.push(path);
  }
  return found;
}

/** Offers the folders' servers to the editor's own agents: over stdio, which survives a server's restart. */
export class McpProvider implements vscode.McpServerDefinitionProvider<vscode.McpStdioServerDefinition>, Disposable {
  private readonly changed = new vscode.EventEmitter<void>();
  readonly onDidChangeMcpServerDefinitions = this.changed.event;
  private readonly subscriptions: Disposable[];

  constructor(
    private readonly installation: Installation,
    private readonly storage: string,
  ) {
    const changed = (): void => this.changed.fire();
    const watcher = vscode.workspace.createFileSystemWatcher("**/*.ipynb", false, true, false);
    this.subscriptions = [
      this.changed, watcher, watcher.onDidCreate(changed), watcher.onDidDelete(changed), installation.onChange(changed),
      vscode.workspace.onDidChangeWorkspaceFolders(changed), vscode.workspace.onDidGrantWorkspaceTrust(changed),
    ];
  }

  async provideMcpServerDefinitions(): Promise<vscode.McpStdioServerDefinition[]> {
    // The editor starts what it is given by itself: nothing is installed for that, before a person uses it.
    if (!vscode.workspace.isTrusted || (await this.installation.look()) === undefined) return [];
    const folders = await notebookFolders();
    const version = await this.installation.bundle().then((bundle) => bundle.version, () => undefined);
    return folders.map((folder) => {
      const label = folders.length === 1 ? "Jupyter" : `Jupyter: ${vscode.workspace.asRelativePath(folder)}`;
      return new vscode.McpStdioServerDefinition(label, launcherPath(this.storage), ["--root", folder], {}, version);
    });
  }

  /** Called before it is started: the environment is made then, if need be. */
  async resolveMcpServerDefinition(server: vscode.McpStdioServerDefinition): Promise<vscode.McpStdioServerDefinition> {
    await this.installation.ensure(false);
    return server;
  }

  dispose(): void {
    for (const one of this.subscriptions) one.dispose();
  }
}

/** Register it where the editor has such a thing: forks may not. */
export function registerMcp(installation: Installation, storage: string): Disposable[] {
  const { lm } = vscode as { lm?: Partial<typeof vscode.lm> };
  if (lm?.registerMcpServerDefinitionProvider === undefined) return [];
  const provider = new McpProvider(installation, storage);
  return [provider, lm.registerMcpServerDefinitionProvider("mcp-server-jupyter.servers", provider)];
}
