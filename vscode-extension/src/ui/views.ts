import { basename } from "node:path";
import * as vscode from "vscode";
import type { Disposable } from "../emitter";
import { words } from "../errors";
import type { Activity, Kernel } from "../server/protocol";
import type { Servers } from "../server/registry";
import type { RootServer } from "../server/root";
import { byTurn } from "./turns";
import { authorName, duration, firstLine, isPerson } from "./words";

const { t } = vscode.l10n;

const REVEALS = 20;

interface Variable {
  readonly name: string;
  readonly type: string;
  readonly size: string;
  readonly value: string;
}

export type KernelNode =
  | { readonly kind: "kernel"; readonly server: RootServer; readonly kernel: Kernel }
  | { readonly kind: "variable"; readonly server: RootServer; readonly kernel: Kernel; readonly variable: Variable }
  | { readonly kind: "note"; readonly text: string };

/** Kernels, and in each its variables. */
export class KernelsView implements vscode.TreeDataProvider<KernelNode>, Disposable {
  private readonly changed = new vscode.EventEmitter<KernelNode | undefined>();
  readonly onDidChangeTreeData = this.changed.event;
  private readonly nodes = new Map<string, Extract<KernelNode, { kind: "kernel" }>>();
  private readonly view: vscode.TreeView<KernelNode>;
  private readonly subscription: Disposable;

  constructor(private readonly servers: Servers) {
    this.view = vscode.window.createTreeView("mcp-server-jupyter.kernels", { treeDataProvider: this });
    this.subscription = servers.onChange(() => this.changed.fire(undefined));
  }

  refresh(): void {
    this.changed.fire(undefined);
  }

  /** Show one kernel's variables. */
  async show(server: RootServer, kernelId: string): Promise<void> {
    await vscode.commands.executeCommand("mcp-server-jupyter.kernels.focus");
    await this.getChildren();
    const node = this.nodes.get(kernelId);
    if (node?.server !== server) return;
    for (let looks = 0; looks < REVEALS; looks++) {
      try {
        await this.view.reveal(node, { expand: true, focus: true, select: true });
        return;
      } catch {
        // A view that was just opened does not have its tree yet.
        await new Promise((resolve) => setTimeout(resolve, 150));
      }
    }
  }

  dispose(): void {
    for (const one of [this.subscription, this.view, this.changed]) one.dispose();
  }

  getParent(node: KernelNode): KernelNode | undefined {
    return node.kind === "variable" ? this.nodes.get(node.kernel.kernel_id) : undefined;
  }

  getChildren(node?: KernelNode): KernelNode[] | Promise<KernelNode[]> {
    if (node === undefined) return this.servers.all().flatMap((server) => [...server.state.kernels.values()].map((kernel) => this.kernelNode(server, kernel)));
    return node.kind === "kernel" ? variables(node) : [];
  }

  getTreeItem(node: KernelNode): vscode.TreeItem {
    if (node.kind === "note") return new vscode.TreeItem(node.text);
    return node.kind === "kernel" ? kernelItem(node.server, node.kernel) : variableItem(node.variable);
  }

  private kernelNode(server: RootServer, kernel: Kernel): KernelNode {
    const node = { kind: "kernel", server, kernel } as const;
    this.nodes.set(kernel.kernel_id, node);
    return node;
  }
}

async function variables(node: Extract<KernelNode, { kind: "kernel" }>): Promise<KernelNode[]> {
  const { server, kernel } = node;
  if (kernel.state === "starting") return [{ kind: "note", text: kernel.stage ?? t("Starting.") }];
  if (kernel.state === "dead") return [{ kind: "note", text: kernel.death ?? t("It died.") }];
  if (server.state.runningOn(kernel.kernel_id) !== undefined) return [{ kind: "note", text: t("Busy: variables are listed when it is idle.") }];
  try {
    const { data } = await (await server.ready()).perform("list_variables", { kernel_id: kernel.kernel_id });
    const found = (data["variables"] ?? []) as unknown as Variable[];
    if (found.length === 0) return [{ kind: "note", text: t("No variables yet.") }];
    return found.map((variable) => ({ kind: "variable", server, kernel, variable }));
  } catch (error) {
    return [{ kind: "note", text: words(error) }];
  }
}

function kernelItem(server: RootServer, kernel: Kernel): vscode.TreeItem {
  const name = kernel.notebooks.length > 0 ? kernel.notebooks.map((path) => basename(path)).join(", ") : t("no notebook");
  const item = new vscode.TreeItem(name, vscode.TreeItemCollapsibleState.Collapsed);
  const running = server.state.runningOn(kernel.kernel_id);
  const state = kernel.state === "dead" ? t("died") : kernel.state === "starting" ? t("starting") : running === undefined ? t("idle") : t("busy, {0}", isPerson(running.author) ? t("you") : authorName(running.author));
  item.id = `${server.root}\0${kernel.kernel_id}`;
  item.description = `${kernel.display_name} · ${state}`;
  item.tooltip = new vscode.MarkdownString(t("Kernel {0}, epoch {1}\n\nFolder: {2}", kernel.kernel_id.slice(0, 8), kernel.kernel_epoch, server.root));
  item.iconPath = new vscode.ThemeIcon(kernel.state === "dead" ? "error" : running === undefined && kernel.state !== "starting" ? "vm" : "sync~spin");
  item.contextValue = kernel.state === "dead" ? "kernelDead" : "kernel";
  item.accessibilityInformation = { label: `${name}, ${item.description}` };
  return item;
}

function variableItem({ name, type, size, value }: Variable): vscode.TreeItem {
  const item = new vscode.TreeItem(name);
  item.description = `${type} ${size}  ${value}`.replaceAll(/\s+/g, " ").trim();
  item.tooltip = `${name}: ${type} ${size}\n${value}`;
  item.iconPath = new vscode.ThemeIcon("symbol-variable");
  item.accessibilityInformation = { label: `${name}, ${item.description}` };
  return item;
}

export interface ActivityNode {
  readonly server: RootServer;
  readonly activity: Activity;
  /** Edits of the same turn that are told by this line. */
  readonly edits: number;
}

const LISTED = 200;
const ASK_AGAIN = 500;

/** Who ran and edited what: the newest first, a turn of edits as one line. */
export class ActivityView implements vscode.TreeDataProvider<ActivityNode>, Disposable {
  private readonly changed = new vscode.EventEmitter<undefined>();
  readonly onDidChangeTreeData = this.changed.event;
  private readonly subscriptions: Disposable[];
  private asking: NodeJS.Timeout | undefined;

  constructor(private readonly servers: Servers) {
    const follow = (server: RootServer): void => {
      for (const on of [server.onChange, server.onEdit]) this.subscriptions.push(on(() => this.refreshSoon()));
    };
    this.subscriptions = [
      vscode.window.createTreeView("mcp-server-jupyter.activity", { treeDataProvider: this }), this.changed, servers.onAdded(follow),
    ];
    servers.all().forEach(follow);
  }

  refresh(): void {
    this.changed.fire(undefined);
  }

  dispose(): void {
    clearTimeout(this.asking);
    for (const one of this.subscriptions) one.dispose();
  }

  async getChildren(node?: ActivityNode): Promise<ActivityNode[]> {
    if (node !== undefined) return [];
    const lists = await Promise.all(this.servers.all().map(async (server) => {
      if (!server.connected || server.client === undefined) return [];
      const found = await server.client.activity(undefined, LISTED).catch(() => []);
      return byTurn(found).map((one) => ({ server, ...one }));
    }));
    return lists.flat().sort((one, other) => other.activity.at - one.activity.at);
  }

  getTreeItem({ activity, edits, server }: ActivityNode): vscode.TreeItem {
    const who = isPerson(activity.author) ? t("You") : authorName(activity.author);
    const label = `${who}: ${what(activity, edits)}`;
    const item = new vscode.TreeItem(label);
    const where = activity.notebook_path ?? "";
    item.description = `${new Date(activity.at * 1_000).toLocaleTimeString()} ${basename(where)}`;
    item.tooltip = `${activity.author} · ${where}${activity.kind === "execution" ? `\n\n${activity.code}` : ""}`;
    item.iconPath = new vscode.ThemeIcon(activity.kind === "edit" ? "edit" : runIcon(activity.status));
    const isTheirEdit = activity.kind === "edit" && !isPerson(activity.author) && !activity.undone && activity.turn !== null;
    item.contextValue = isTheirEdit ? "edit" : activity.kind;
    item.command = { command: "mcp-server-jupyter.reveal", title: t("Show Cell"), arguments: [server.root, activity.notebook_path, activity.cell_id] };
    item.accessibilityInformation = { label: `${label}, ${item.description}` };
    return item;
  }

  private refreshSoon(): void {
    clearTimeout(this.asking);
    this.asking = setTimeout(() => this.refresh(), ASK_AGAIN);
  }
}


function what(activity: Activity, edits: number): string {
  if (activity.kind === "execution") {
    const took = activity.seconds === null || activity.seconds < 0.05 ? "" : ` · ${duration(activity.seconds)}`;
    return `${firstLine(activity.code, 40)} — ${activity.status}${took}`;
  }
  const undone = activity.undone ? t(" (undone)") : "";
  return edits === 1 ? t("edited a cell: {0}{1}", activity.edit, undone) : t("{0} edits{1}", edits, undone);
}

function runIcon(status: string): string {
  if (status === "ok") return "pass";
  return ["error", "died", "lost"].includes(status) ? "error" : status === "running" ? "sync~spin" : "circle-outline";
}
