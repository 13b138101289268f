import * as vscode from "vscode";
import { Problem } from "../errors";
import type { Controllers } from "../notebook/controllers";
import { type Documents, isNotebook } from "../notebook/documents";
import type { Kernels } from "../notebook/kernels";
import type { Sharing } from "../notebook/sharing";
import type { Installation } from "../python/installation";
import type { RunPolicy } from "../server/protocol";
import type { Servers } from "../server/registry";
import type { RootServer } from "../server/root";
import { SECTION, settings } from "../settings";
import type { Log } from "../log";
import type { Approvals } from "./approvals";
import type { CellMarks } from "./cellMarks";
import { diagnostics } from "./diagnostics";
import { copyMcpConfig } from "./mcpConfig";
import type { Reporter } from "./reporter";
import { lastAgentTurn } from "./turns";
import type { ActivityNode, ActivityView, KernelNode, KernelsView } from "./views";
import { openWalkthrough } from "./walkthrough";
import { authorName } from "./words";

const { t } = vscode.l10n;

/** What the commands work on. */
export interface Parts {
  readonly context: vscode.ExtensionContext;
  readonly log: Log;
  readonly installation: Installation;
  readonly servers: Servers;
  readonly documents: Documents;
  readonly controllers: Controllers;
  readonly kernels: Kernels;
  readonly sharing: Sharing;
  readonly reporter: Reporter;
  readonly approvals: Approvals;
  readonly marks: CellMarks;
  readonly kernelsView: KernelsView;
  readonly activityView: ActivityView;
}

type Command = (...args: never[]) => Promise<void> | void;

/** Every command of the manifest. */
export function commands(parts: Parts): Record<string, Command> {
  return { ...setUpCommands(parts), ...kernelCommands(parts), ...agentCommands(parts), ...viewCommands(parts) };
}

export function registerCommands(parts: Parts): vscode.Disposable[] {
  return Object.entries(commands(parts)).map(([name, command]) =>
    vscode.commands.registerCommand(name, (...args: never[]) => parts.reporter.attempt(async () => await command(...args))),
  );
}

function setUpCommands({ context, installation, sharing, servers, documents, log }: Parts): Record<string, Command> {
  return {
    "mcp-server-jupyter.setUp": async () => {
      await installation.repair();
      for (const server of servers.all()) if (server.problem !== undefined) servers.forget(server);
      sharing.openAll();
      void vscode.window.showInformationMessage(t("The server is set up. Run a cell, or let an agent in."));
    },
    "mcp-server-jupyter.showLog": () => log.show(),
    "mcp-server-jupyter.showDiagnostics": async () => {
      const version = (context.extension.packageJSON as { version: string }).version;
      const names = new Map([[context.globalStorageUri.fsPath, "[storage]"], [context.extensionPath, "[extension]"]]);
      const content = await diagnostics({ installation, servers, documents, log, version, names });
      await vscode.window.showTextDocument(await vscode.workspace.openTextDocument({ language: "markdown", content }));
    },
    "mcp-server-jupyter.openWalkthrough": async () => openWalkthrough(context.extension, "setUp"),
    "mcp-server-jupyter.copyMcpConfig": async () => {
      await copyMcpConfig(installation, context.globalStorageUri.fsPath, rootAtHand(documents));
    },
    "mcp-server-jupyter.widgets": async () => openWalkthrough(context.extension, "widgets"),
    "mcp-server-jupyter.stopServer": async (root: string) => {
      const server = servers.get(root);
      await servers.end(root);
      if (server !== undefined) servers.forget(server);
    },
  };
}

function kernelCommands({ documents, controllers, kernels, sharing, reporter, marks }: Parts): Record<string, Command> {
  const told = async (work: Promise<string>): Promise<void> => {
    void vscode.window.setStatusBarMessage(await work, 6_000);
  };
  return {
    "mcp-server-jupyter.share": async () => {
      await kernels.setUp();
      await sharing.share(notebookAtHand());
    },
    "mcp-server-jupyter.attach": async () => {
      const notebook = notebookAtHand();
      await kernels.setUp();
      const server = documents.serverOf(notebook);
      await server.ready();
      const living = [...server.state.kernels.values()].filter(({ state }) => state !== "dead" && state !== "starting");
      if (living.length === 0) throw new Problem(t("No kernel runs in {0}.", server.root));
      const picked = await vscode.window.showQuickPick(
        living.map((kernel) => ({ label: kernel.display_name, description: kernel.notebooks.join(", "), detail: kernel.kernel_id, kernel })),
        { title: t("Attach to Running Kernel"), matchOnDescription: true },
      );
      if (picked === undefined) return;
      await kernels.attach(notebook, picked.kernel.kernel_id);
      await sharing.share(notebook, picked.kernel.name);
    },
    "mcp-server-jupyter.interrupt": async () => told(kernels.interrupt(notebookAtHand())),
    "mcp-server-jupyter.restart": async () => told(kernels.restart(notebookAtHand())),
    "mcp-server-jupyter.restartAndRunAll": async () => {
      const notebook = notebookAtHand();
      if (kernels.kernelOf(notebook) !== undefined) await kernels.restart(notebook);
      await kernels.run(notebook.getCells(), notebook, controllers.choiceOf(notebook) ?? { kind: "own" });
    },
    "mcp-server-jupyter.stop": async () => told(kernels.stop(notebookAtHand())),
    "mcp-server-jupyter.rerunStale": async () => {
      const notebook = notebookAtHand();
      const stale = marks.staleCells(notebook);
      if (stale.length === 0) void vscode.window.showInformationMessage(t("No cell is out of date."));
      else await kernels.run(stale, notebook, controllers.choiceOf(notebook) ?? { kind: "own" });
    },
    "mcp-server-jupyter.interruptKernel": async (node: KernelNode) => onKernel(node, "interrupt_kernel"),
    "mcp-server-jupyter.restartKernel": async (node: KernelNode) => {
      if (await sure(t("Restart this kernel? All its variables are lost."), t("Restart"))) await onKernel(node, "restart_kernel");
    },
    "mcp-server-jupyter.stopKernel": async (node: KernelNode) => {
      if (await sure(t("Stop this kernel? All its variables are lost."), t("Stop"))) await onKernel(node, "shutdown_kernel");
    },
    "mcp-server-jupyter.statusMenu": async () => reporter.attempt(() => statusMenu()),
  };
}

function agentCommands({ servers, documents, approvals, activityView }: Parts): Record<string, Command> {
  return {
    "mcp-server-jupyter.pauseAgents": async () => {
      const known = servers.all().filter(({ isWanted }) => isWanted);
      if (known.length === 0) throw new Problem(t("No server runs for this window: there are no agents to pause."));
      const paused = !known.every(({ state }) => state.agents.paused);
      for (const server of known) await (await server.ready()).setAgents({ paused });
      void vscode.window.showInformationMessage(paused ? t("Agents are paused: they change and run nothing. What runs goes on.") : t("Agents may go on."));
    },
    "mcp-server-jupyter.agentsRun": async () => chooseAgentsRun(documents),
    "mcp-server-jupyter.undoAgentChange": async () => {
      const { server, path } = await sharedAtHand(documents);
      const client = await server.ready();
      const last = lastAgentTurn(await client.activity(path, 1_000));
      if (last === undefined) throw new Problem(t("No agent has changed this notebook, or all of it is undone."));
      await undo(server, path, last.turn, last.author).finally(() => activityView.refresh());
    },
    "mcp-server-jupyter.undoTurn": async ({ server, activity }: ActivityNode) => {
      if (activity.kind === "edit" && activity.turn !== null && activity.notebook_path !== null) await undo(server, activity.notebook_path, activity.turn, activity.author).finally(() => activityView.refresh());
    },
    "mcp-server-jupyter.approve": async (root?: string, id?: string) => approvals.decide("approve", root, id),
    "mcp-server-jupyter.deny": async (root?: string, id?: string) => approvals.decide("deny", root, id),
  };
}

function viewCommands({ servers, documents, kernels, kernelsView, activityView }: Parts): Record<string, Command> {
  return {
    "mcp-server-jupyter.showActivity": async () => {
      await vscode.commands.executeCommand("mcp-server-jupyter.activity.focus");
    },
    "mcp-server-jupyter.showVariables": async () => {
      const found = kernels.kernelOf(notebookAtHand());
      if (found === undefined) throw new Problem(t("This notebook has no kernel. Running a cell starts one."));
      await kernelsView.show(found.server, found.kernel.kernel_id);
    },
    "mcp-server-jupyter.refreshKernels": () => kernelsView.refresh(),
    "mcp-server-jupyter.refreshActivity": () => activityView.refresh(),
    "mcp-server-jupyter.reveal": async (root: string, path: string | null, cellId: string | null) => {
      const server = servers.get(root);
      const shared = server === undefined || path === null ? undefined : documents.byPath(server, path);
      const cell = cellId === null ? undefined : shared?.cellOf(cellId);
      if (shared === undefined) return;
      const editor = await vscode.window.showNotebookDocument(shared.document, { preview: false });
      if (cell === undefined) return;
      editor.selection = new vscode.NotebookRange(cell.index, cell.index + 1);
      editor.revealRange(editor.selection, vscode.NotebookEditorRevealType.InCenterIfOutsideViewport);
    },
  };
}

async function undo(server: RootServer, path: string, turn: string, author: string): Promise<void> {
  const { text } = await (await server.ready()).perform("undo", { notebook_path: path, turn, author });
  void vscode.window.showInformationMessage(`${authorName(author)}: ${text}`);
}

async function chooseAgentsRun(documents: Documents): Promise<void> {
  const items: { label: string; description: string; run: RunPolicy }[] = [
    { label: t("Allow"), description: t("They run; you watch."), run: "allow" },
    { label: t("Ask"), description: t("Every run waits until you approve it."), run: "ask" },
    { label: t("Deny"), description: t("They read and edit, but run nothing."), run: "deny" },
  ];
  const picked = await vscode.window.showQuickPick(items, { title: t("What may agents run?"), placeHolder: t("Now: {0}", settings.agentsRun()) });
  if (picked === undefined) return;
  const notebook = vscode.window.activeNotebookEditor?.notebook;
  const shared = notebook === undefined ? undefined : documents.get(notebook);
  const [here, everywhere] = [t("In This Notebook"), t("In All Notebooks")];
  const where = shared === undefined ? everywhere : await vscode.window.showQuickPick([here, everywhere], { title: picked.label });
  if (where === here && shared !== undefined) {
    await (await shared.server.ready()).setAgents({ run: picked.run, notebook_path: shared.path });
    void vscode.window.showInformationMessage(t("What agents run in {0}: {1}. {2}", shared.path, picked.label, picked.description));
  } else if (where === everywhere) {
    await vscode.workspace.getConfiguration(SECTION).update("agents.run", picked.run, vscode.ConfigurationTarget.Global);
    void vscode.window.showInformationMessage(t("What agents run in all notebooks: {0}. {1}", picked.label, picked.description));
  }
}

async function onKernel(node: KernelNode, operation: string): Promise<void> {
  if (node.kind !== "kernel") return;
  const { text } = await (await node.server.ready()).perform(operation, { kernel_id: node.kernel.kernel_id }, { timeout: 60_000 });
  vscode.window.setStatusBarMessage(text, 6_000);
}

async function statusMenu(): Promise<void> {
  const names: [string, string][] = [
    ["showVariables", t("Show Variables")], ["showActivity", t("Show Agent Activity")], ["pauseAgents", t("Pause or Resume Agents")],
    ["agentsRun", t("Choose What Agents May Run")], ["undoAgentChange", t("Undo Last Agent Change")], ["attach", t("Attach to Running Kernel")],
    ["restart", t("Restart Kernel")], ["copyMcpConfig", t("Copy MCP Config for…")], ["setUp", t("Set Up / Repair")], ["showDiagnostics", t("Show Diagnostics")],
  ];
  const picked = await vscode.window.showQuickPick(names.map(([command, label]) => ({ command, label })), { title: t("Jupyter with Agents") });
  if (picked !== undefined) await vscode.commands.executeCommand(`${SECTION}.${picked.command}`);
}

function notebookAtHand(): vscode.NotebookDocument {
  const document = vscode.window.activeNotebookEditor?.notebook;
  if (document === undefined || !isNotebook(document)) throw new Problem(t("Open a notebook first."));
  return document;
}

async function sharedAtHand(documents: Documents): Promise<{ server: RootServer; path: string }> {
  const shared = await documents.share(notebookAtHand());
  if (shared === undefined) throw new Problem(t("Save the notebook first."));
  return shared;
}

function rootAtHand(documents: Documents): string {
  const document = vscode.window.activeNotebookEditor?.notebook;
  if (document !== undefined && isNotebook(document)) return documents.place(document).root;
  const folder = vscode.workspace.workspaceFolders?.[0];
  if (folder === undefined) throw new Problem(t("Open a folder or a notebook first."));
  return folder.uri.fsPath;
}

async function sure(question: string, button: string): Promise<boolean> {
  return (await vscode.window.showWarningMessage(question, { modal: true }, button)) === button;
}
