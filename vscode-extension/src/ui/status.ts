import * as vscode from "vscode";
import type { Disposable } from "../emitter";
import { words } from "../errors";
import type { Documents } from "../notebook/documents";
import { isNotebook } from "../notebook/documents";
import type { Kernels } from "../notebook/kernels";
import type { Installation } from "../python/installation";
import type { Servers } from "../server/registry";
import { authorName, isPerson } from "./words";

const { t } = vscode.l10n;

interface Shown {
  readonly icon: string;
  readonly text: string;
  readonly tooltip: string;
  readonly colour?: "error" | "warning";
}

/** The one item in the status bar: what goes on in the notebook at hand, and who does it. */
export class Status implements Disposable {
  private readonly item = vscode.window.createStatusBarItem("status", vscode.StatusBarAlignment.Left, 10);
  private readonly subscriptions: Disposable[];

  constructor(
    private readonly installation: Installation,
    private readonly servers: Servers,
    private readonly documents: Documents,
    private readonly kernels: Kernels,
  ) {
    this.item.name = t("Jupyter with Agents");
    this.item.command = "mcp-server-jupyter.statusMenu";
    const update = (): void => this.update();
    this.subscriptions = [installation.onChange(update), servers.onChange(update), vscode.window.onDidChangeActiveNotebookEditor(update), this.item];
    this.update();
  }

  dispose(): void {
    for (const one of this.subscriptions) one.dispose();
  }

  update(): void {
    const { icon, text, tooltip, colour } = this.shown();
    this.item.text = `$(${icon}) ${text}`;
    this.item.tooltip = tooltip;
    this.item.accessibilityInformation = { label: `${t("Jupyter with Agents")}: ${text}. ${tooltip}`, role: "button" };
    this.item.backgroundColor = colour === undefined ? undefined : new vscode.ThemeColor(`statusBarItem.${colour}Background`);
    this.item.show();
  }

  private shown(): Shown {
    const { installation } = this;
    if (!vscode.workspace.isTrusted) return { icon: "shield", text: t("Jupyter: not trusted"), tooltip: t("Notebooks can be read; nothing is installed, started or run.") };
    if (installation.isBusy) return { icon: "sync~spin", text: t("Jupyter: setting up"), tooltip: t("The server's own environment is being made.") };
    if (installation.problem !== undefined && installation.current === undefined) {
      return { icon: "error", text: t("Jupyter: not set up"), tooltip: installation.problem.message, colour: "error" };
    }
    const document = vscode.window.activeNotebookEditor?.notebook;
    if (document === undefined || !isNotebook(document)) return this.overall();
    return this.ofNotebook(document);
  }

  private overall(): Shown {
    const waiting = this.servers.all().reduce((sum, { state }) => sum + state.approvals.size, 0);
    if (waiting > 0) return this.asked(waiting);
    const kernels = this.servers.all().reduce((sum, { state }) => sum + state.kernels.size, 0);
    const counted = kernels === 1 ? t("Jupyter: 1 kernel") : t("Jupyter: {0} kernels", kernels);
    return { icon: "notebook", text: kernels === 0 ? t("Jupyter") : counted, tooltip: t("Notebooks and kernels that you share with agents.") };
  }

  private asked(count: number): Shown {
    return { icon: "bell-dot", text: count === 1 ? t("Jupyter: an agent asks") : t("Jupyter: agents ask ({0})", count), tooltip: t("An agent wants to run code: approve or deny it."), colour: "warning" };
  }

  private ofNotebook(document: vscode.NotebookDocument): Shown {
    const server = this.servers.get(this.documents.place(document).root);
    if (server === undefined || !server.isWanted) {
      if (server?.problem !== undefined) return { icon: "error", text: t("Jupyter: no server"), tooltip: words(server.problem), colour: "error" };
      return { icon: "notebook", text: t("Jupyter"), tooltip: t("Running a cell starts a kernel that agents can use too.") };
    }
    if (!server.connected) return { icon: "sync~spin", text: t("Jupyter: connecting"), tooltip: t("Looking for the server of {0}.", server.root) };
    const path = this.documents.place(document).path;
    const asked = [...server.state.approvals.values()].filter(({ notebook_path }) => notebook_path === path).length;
    if (asked > 0) return this.asked(asked);
    const paused = server.state.policyOf(path).paused ? t(", agents paused") : "";
    const kernel = this.kernels.kernelOf(document)?.kernel;
    if (kernel === undefined) return { icon: "circle-outline", text: t("Jupyter: no kernel{0}", paused), tooltip: t("Running a cell starts one.") };
    if (kernel.state === "starting") return { icon: "sync~spin", text: t("Jupyter: kernel is starting"), tooltip: kernel.stage ?? "" };
    if (kernel.state === "dead") return { icon: "error", text: t("Jupyter: kernel died"), tooltip: kernel.death ?? "", colour: "error" };
    const running = server.state.runningOn(kernel.kernel_id);
    const name = kernel.display_name;
    if (running === undefined) return { icon: "circle-filled", text: t("Jupyter: idle{0}", paused), tooltip: t("{0}. Its variables stay when this window closes.", name) };
    const who = isPerson(running.author) ? t("you") : authorName(running.author);
    if (running.status === "waiting_input") return { icon: "question", text: t("Jupyter: input for {0}", who), tooltip: running.input_prompt ?? "", colour: "warning" };
    return { icon: "sync~spin", text: t("Jupyter: busy, {0}{1}", who, paused), tooltip: t("{0} runs a cell of {1}.", name, who) };
  }
}
