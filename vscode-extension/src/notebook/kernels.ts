import * as vscode from "vscode";
import { Cancelled, Problem } from "../errors";
import type { Log } from "../log";
import { probe } from "../python/find";
import { isolated, run } from "../python/process";
import type { Installation } from "../python/installation";
import { type Client, Refused } from "../server/client";
import type { JsonObject, Kernel, Submitted } from "../server/protocol";
import type { RootServer } from "../server/root";
import type { Choice } from "./controllers";
import type { Documents } from "./documents";
import type { SharedDocument } from "./document";
import { cellType, ownId, toMetadata } from "./nbformat";
import { docCell } from "./document";
import type { Runs } from "./runs";
import { joins, Submissions } from "./submissions";

const { t } = vscode.l10n;
/** How long a kernel may start before that is told, in milliseconds. */
const QUIET_START = 8_000;

/** Running, stopping and choosing kernels, for whoever asks in this window. */
export class Kernels {
  private readonly asked = new WeakMap<vscode.NotebookDocument, Submissions>();

  constructor(
    private readonly installation: Installation,
    private readonly documents: Documents,
    private readonly runs: Runs,
    private readonly log: Log,
  ) {}

  /** The server's environment, for what a person asked for. */
  async setUp(): Promise<void> {
    await this.installation.ensure(true);
  }

  /**
   * Run cells as one batch; returns once they are submitted, since their ends are told by events. What is asked for
   * while the server or the kernel is still starting is submitted in the order of asking.
   *
   * @throws Problem, Cancelled, Refused; then nothing runs.
   */
  async run(cells: readonly vscode.NotebookCell[], notebook: vscode.NotebookDocument, choice: Choice): Promise<void> {
    const asked = this.asked.get(notebook) ?? new Submissions(t("Cancelled."));
    this.asked.set(notebook, asked);
    await asked.do((signal) => this.submit(cells, notebook, choice, signal));
  }

  private async submit(cells: readonly vscode.NotebookCell[], notebook: vscode.NotebookDocument, choice: Choice, signal: AbortSignal): Promise<void> {
    await this.setUp();
    signal.throwIfAborted();
    const code = cells.filter((cell) => cellType(docCell(cell)) === "code" && cell.document.getText().trim() !== "");
    if (code.length === 0) return;
    if (notebook.isUntitled) await this.runUntitled(code, notebook, choice, signal);
    else await this.runShared(code, notebook, choice, signal);
  }

  private async runShared(cells: readonly vscode.NotebookCell[], notebook: vscode.NotebookDocument, choice: Choice, signal: AbortSignal): Promise<void> {
    const shared = await this.documents.share(notebook);
    if (shared === undefined) return;
    const { server } = shared;
    const client = await server.ready();
    await shared.setShared(true);
    await shared.flush();
    shared.touched();
    signal.throwIfAborted();
    await this.fit(shared, client, choice);
    const asked = cells.map((cell) => ({ cell_id: shared.idOf(cell), source: source(cell) }));
    const answer = await this.joined(() => client.execute({ notebook_path: shared.path, cells: asked, stop_on_error: true }), signal);
    for (const { cell_id, execution_id } of answer.executions) {
      const cell = cells[asked.findIndex((one) => one.cell_id === cell_id)];
      if (cell !== undefined) this.runs.submitted(server, execution_id, cell);
    }
    await stopIfAsked(client, answer, signal);
  }

  /** A start goes on by itself: the same request joins it, until it is there or the person gives up. */
  private async joined<T>(ask: () => Promise<T>, signal: AbortSignal): Promise<T> {
    const soon = await joins(ask, signal, { isEnough: (since) => since > QUIET_START });
    if (soon !== undefined) return soon.answer;
    return await vscode.window.withProgress({ location: vscode.ProgressLocation.Notification, title: t("The kernel is starting"), cancellable: true }, async (progress, token) => {
      const late = await joins(ask, signal, { isEnough: () => token.isCancellationRequested, report: (message) => progress.report({ message }) });
      if (late === undefined) throw new Cancelled(t("Cancelled."));
      return late.answer;
    });
  }

  /** Without a file there is no path: the cells are code for a kernel that the first save binds to the file. */
  private async runUntitled(cells: readonly vscode.NotebookCell[], notebook: vscode.NotebookDocument, choice: Choice, signal: AbortSignal): Promise<void> {
    const server = this.documents.serverOf(notebook);
    const client = await server.ready();
    let kernelId = this.documents.untitledKernel(notebook);
    if (kernelId === undefined || !server.state.kernels.has(kernelId)) {
      const answer = await client.perform("start_kernel", await this.startArguments(choice, notebook), { timeout: 120_000 });
      kernelId = answer.data["kernel_id"] as string;
    }
    const id = kernelId;
    const asked = cells.map((cell, at) => ({ cell_id: ownId(cell.metadata) ?? `cell-${String(at)}`, source: source(cell) }));
    const answer = await this.joined(() => client.execute({ kernel_id: id, cells: asked, stop_on_error: true }), signal);
    // What was starting has another id once it is there.
    this.documents.setUntitledKernel(notebook, server, answer.kernel_id);
    answer.executions.forEach(({ execution_id }, at) => {
      const cell = cells[at];
      if (cell !== undefined) this.runs.submitted(server, execution_id, cell);
    });
    await stopIfAsked(client, answer, signal);
  }

  /** The notebook's kernel is the one chosen: started where there is none, another where another was chosen. */
  private async fit(shared: SharedDocument, client: Client, choice: Choice): Promise<void> {
    const kernel = shared.server.state.kernelOf(shared.path);
    const running = kernel !== undefined && kernel.state !== "dead" ? kernel : undefined;
    if (choice.kind === "own" || (running !== undefined && fits(running, choice))) return;
    if (running !== undefined) {
      const answer = await vscode.window.showWarningMessage(
        t("{0} runs on {1}. Run it on another kernel? Its variables stay in the old one, which goes on without a notebook.", shared.path, running.display_name),
        { modal: true }, t("Run on Another Kernel"),
      );
      if (answer === undefined) throw new Cancelled(t("Cancelled."));
      await client.bind(shared.path, null);
    }
    const args = { ...(await this.startArguments(choice, shared.document)), notebook_path: shared.path };
    try {
      await client.perform("start_kernel", args, { timeout: 120_000 });
    } catch (error) {
      // An agent was first, at the same moment: its kernel is the notebook's.
      if (!(error instanceof Refused && error.code === "already_exists")) throw error;
    }
  }

  private async startArguments(choice: Choice, notebook: vscode.NotebookDocument): Promise<JsonObject> {
    if (choice.kind === "python") {
      await this.needIpykernel(choice.python);
      return { python: choice.python };
    }
    if (choice.kind === "spec") return { kernel_name: choice.name };
    const spec = toMetadata(notebook.metadata)["kernelspec"] as { name?: string } | undefined;
    return spec?.name === undefined ? {} : { kernel_name: spec.name };
  }

  /** The user's environment is changed only after asking. */
  private async needIpykernel(python: string): Promise<void> {
    const interpreter = await probe(python);
    if (interpreter === undefined) throw new Problem(t("{0} does not start.", python));
    if (interpreter.hasIpykernel) return;
    const install = t("Install");
    const answer = await vscode.window.showWarningMessage(
      t("{0} has no ipykernel, which a kernel needs. Install it there?", python), { modal: true, detail: `${python} -m pip install ipykernel` }, install,
    );
    if (answer !== install) throw new Cancelled(t("Cancelled."));
    await vscode.window.withProgress({ location: vscode.ProgressLocation.Notification, title: t("Installing ipykernel"), cancellable: true }, async (_, token) => {
      const abort = new AbortController();
      token.onCancellationRequested(() => abort.abort(new Cancelled(t("Cancelled."))));
      const ended = await run(python, ["-m", "pip", "install", "--no-input", "ipykernel"], {
        signal: abort.signal, env: isolated(process.env), onLine: (line) => this.log.info(line),
      });
      if (ended.code === 0) return;
      this.log.warn(ended.stderr);
      throw new Problem(t("ipykernel could not be installed: {0}", ended.stderr.trim().split("\n").at(-1) ?? ""), { title: t("Show Log"), command: "mcp-server-jupyter.showLog" });
    });
  }

  // ------------------------------------------------------------------ what is running

  kernelOf(notebook: vscode.NotebookDocument): { server: RootServer; kernel: Kernel } | undefined {
    const { root, path } = this.documents.place(notebook);
    const server = this.documents.get(notebook)?.server ?? this.documents.serverOf(notebook);
    const untitled = this.documents.untitledKernel(notebook);
    const kernel = untitled === undefined ? server.state.kernelOf(path) : server.state.kernels.get(untitled);
    return kernel === undefined || server.root !== root ? undefined : { server, kernel };
  }

  /** Stop what runs, and what waits for a kernel that starts; the start itself goes on. */
  async interrupt(notebook: vscode.NotebookDocument): Promise<string> {
    const hasStopped = this.asked.get(notebook)?.stop() ?? false;
    const state = this.kernelOf(notebook)?.kernel.state;
    if (hasStopped && (state === undefined || state === "starting")) return t("Cancelled.");
    return await this.perform(notebook, "interrupt_kernel");
  }

  async restart(notebook: vscode.NotebookDocument): Promise<string> {
    return await this.perform(notebook, "restart_kernel");
  }

  async stop(notebook: vscode.NotebookDocument): Promise<string> {
    return await this.perform(notebook, "shutdown_kernel");
  }

  private async perform(notebook: vscode.NotebookDocument, operation: string): Promise<string> {
    const found = this.kernelOf(notebook);
    if (found === undefined) throw new Problem(t("This notebook has no kernel. Running a cell starts one."));
    const client = await found.server.ready();
    return (await client.perform(operation, { kernel_id: found.kernel.kernel_id }, { timeout: 60_000 })).text;
  }

  /** This notebook uses a kernel that runs already, together with the others that do. */
  async attach(notebook: vscode.NotebookDocument, kernelId: string): Promise<void> {
    const shared = await this.documents.share(notebook);
    if (shared === undefined) throw new Problem(t("Save the notebook first: a kernel is bound to a file."));
    await (await shared.server.ready()).bind(shared.path, kernelId);
  }
}

/** It was stopped while the server took it. */
async function stopIfAsked(client: Client, { kernel_id }: Submitted, signal: AbortSignal): Promise<void> {
  if (signal.aborted) await client.perform("interrupt_kernel", { kernel_id }, { timeout: 60_000 });
}

function fits(kernel: Kernel, choice: Choice): boolean {
  if (choice.kind === "spec") return kernel.name === choice.name;
  return choice.kind === "own" || kernel.name === choice.python;
}

function source(cell: vscode.NotebookCell): string {
  return cell.document.getText().replaceAll("\r\n", "\n");
}
