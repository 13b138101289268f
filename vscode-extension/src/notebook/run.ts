import * as vscode from "vscode";
import type { Log } from "../log";
import { words } from "../errors";
import type { Client } from "../server/client";
import { InOrder } from "../server/order";
import { type Execution, isDone, type OutputEvent, type OutputOp, type WholeOutputs } from "../server/protocol";
import { areWhole, coalesced, streamItem } from "./outputs";
import { toEditorOutput } from "./edits";

/** Makes an execution in the editor for a cell; undefined while the editor allows none. */
export type Begin = (cell: vscode.NotebookCell) => Promise<vscode.NotebookCellExecution | undefined>;

/** One execution of the server's, shown live in its cell. */
export class CellRun {
  private execution: vscode.NotebookCellExecution | undefined;
  private beginning: Promise<void> | undefined;
  private isStarted = false;
  private isEnded = false;
  private pending: OutputOp[] = [];
  private shown: vscode.NotebookCellOutput[] = [];
  private texts: string[] = [];
  private pumping: Promise<void> | undefined;
  private seq = 0;
  private readonly updates = new InOrder();
  /** Nothing is written while this is there. */
  private held: Promise<void> | undefined;
  last: Execution | undefined;
  /** All outputs of one that the editor would not take, once it has ended. */
  whole: WholeOutputs | undefined;

  constructor(
    readonly id: string,
    readonly cell: vscode.NotebookCell,
    readonly server: { ready(): Promise<Client> },
    private readonly begin: Begin,
    private readonly log: Log,
  ) {}

  get isDone(): boolean {
    return this.isEnded;
  }

  /** The editor has taken it. */
  get isShown(): boolean {
    return this.execution !== undefined;
  }

  /** Try again to show it, if the editor would not take it. */
  async again(): Promise<void> {
    if (this.isShown || this.isEnded || this.last === undefined) return;
    this.beginning = undefined;
    await this.update(this.last);
    if (this.last.started_at !== null) await this.refresh();
  }

  /** Show the cell as waiting. */
  async prepare(): Promise<void> {
    this.beginning ??= this.begin(this.cell).then((execution) => {
      this.execution = execution;
    });
    await this.beginning;
  }

  /** The run's status has changed. */
  async update(told: Execution): Promise<void> {
    this.last = told;
    await this.updates.do(() => this.updateNow(told));
  }

  private async updateNow(told: Execution): Promise<void> {
    await this.held;
    await this.prepare();
    if (this.isEnded) return;
    if (told.started_at !== null) await this.start(told.started_at);
    if (this.execution !== undefined && told.execution_count !== null) this.execution.executionOrder = told.execution_count;
    if (isDone(told.status)) await this.finish(told);
  }

  /** Outputs have come; what is missing in between is asked for. */
  output(event: OutputEvent): void {
    if (event.seq <= this.seq && !areWhole(event.ops)) return;
    if (!areWhole(event.ops) && event.seq !== this.seq + 1) {
      void this.refresh();
      return;
    }
    this.seq = event.seq;
    this.pending.push(...event.ops);
    this.pump();
  }

  /** The server that counted these outputs is gone: another one may count fewer. */
  forget(): void {
    this.seq = -1;
  }

  /** Show all there is, whatever was shown; returns how the run stands. */
  async refresh(): Promise<string | undefined> {
    const whole = await this.fetch();
    if (whole !== undefined && isDone(whole.status) && this.last !== undefined) {
      await this.update({ ...this.last, status: whole.status, execution_count: whole.execution_count, finished_at: this.last.finished_at ?? Date.now() / 1_000 });
    }
    return whole?.status;
  }

  private async fetch(): Promise<WholeOutputs | undefined> {
    try {
      const whole = await (await this.server.ready()).outputs(this.id);
      // The journal of one that is done does not count what came.
      if (whole.seq >= this.seq || isDone(whole.status)) {
        this.seq = Math.max(whole.seq, this.seq);
        this.pending = [{ op: "clear" }, ...whole.outputs.map((output): OutputOp => ({ op: "append", output }))];
        this.pump();
      }
      return whole;
    } catch (error) {
      this.log.warn(`Outputs of ${this.id}: ${words(error)}`);
      return undefined;
    }
  }

  /** Write nothing into the cell before this is resolved; what comes meanwhile is kept. */
  hold(until: Promise<void>): void {
    this.held = until.then(() => {
      this.held = undefined;
      this.pump();
    });
  }

  /** Its cell is another document's now: nothing more is written into this one. */
  drop(): void {
    this.isEnded = true;
  }

  /** The editor shows it no longer as running, whatever the server does. */
  abandon(): void {
    if (!this.isEnded) this.end(undefined, Date.now());
  }

  private async start(startedAt: number): Promise<void> {
    if (this.isStarted || this.execution === undefined) return;
    this.isStarted = true;
    this.execution.start(startedAt * 1_000);
    await this.attempt(() => this.execution?.clearOutput());
    this.pump();
  }

  private async finish(told: Execution): Promise<void> {
    // It ended while this window was still finding out what it had shown before.
    if (told.seq > this.seq || !this.isShown) this.whole = await this.fetch();
    if (!this.isStarted && this.pending.length > 0) await this.start(told.queued_at);
    await this.drained();
    this.end(told.status === "aborted" ? undefined : told.status === "ok", (told.finished_at ?? Date.now() / 1_000) * 1_000);
  }

  private end(success: boolean | undefined, at: number): void {
    if (this.isEnded) return;
    this.isEnded = true;
    try {
      this.execution?.end(success, at);
    } catch (error) {
      this.log.warn(`${this.id}: ${words(error)}`);
    }
  }

  private async drained(): Promise<void> {
    while (this.pumping !== undefined) await this.pumping;
  }

  private pump(): void {
    if (this.pumping !== undefined || this.held !== undefined || !this.isStarted || this.isEnded) return;
    this.pumping = this.work().finally(() => {
      this.pumping = undefined;
      if (this.pending.length > 0) this.pump();
    });
  }

  private async work(): Promise<void> {
    while (this.pending.length > 0 && !this.isEnded) {
      await this.held;
      const ops = coalesced(this.pending);
      this.pending = [];
      if (areWhole(ops)) await this.showWhole(ops.slice(1));
      else for (const op of ops) await this.attempt(() => this.apply(op));
    }
  }

  /** One replacement rather than a clearing that flickers. */
  private async showWhole(ops: readonly OutputOp[]): Promise<void> {
    this.shown = [];
    this.texts = [];
    const rest: OutputOp[] = [];
    for (const op of ops) {
      if (op.op === "append" && rest.length === 0) this.take(op);
      else rest.push(op);
    }
    await this.attempt(() => this.execution?.replaceOutput(this.shown));
    for (const op of rest) await this.attempt(() => this.apply(op));
  }

  private take(op: Extract<OutputOp, { op: "append" }>): vscode.NotebookCellOutput {
    const output = toEditorOutput(op.output);
    this.shown.push(output);
    this.texts.push(op.output.output_type === "stream" ? op.output.name : "");
    return output;
  }

  private async apply(op: OutputOp): Promise<void> {
    const { execution } = this;
    if (execution === undefined) return;
    if (op.op === "clear") {
      [this.shown, this.texts] = [[], []];
      await execution.clearOutput();
    } else if (op.op === "append") {
      await execution.appendOutput(this.take(op));
    } else if (op.op === "text") {
      const { mime, data } = streamItem(this.texts[op.index] ?? "stdout", op.text);
      const output = this.shown[op.index];
      if (output !== undefined) await execution.appendOutputItems(new vscode.NotebookCellOutputItem(data, mime), output);
    } else {
      await this.replace(execution, op);
    }
  }

  private async replace(execution: vscode.NotebookCellExecution, op: Extract<OutputOp, { op: "replace" }>): Promise<void> {
    const [old, now] = [this.shown[op.index], toEditorOutput(op.output)];
    if (old === undefined) return;
    this.texts[op.index] = op.output.output_type === "stream" ? op.output.name : "";
    if (JSON.stringify(old.metadata) === JSON.stringify(now.metadata)) {
      await execution.replaceOutputItems(now.items, old);
      return;
    }
    this.shown[op.index] = now;
    await execution.replaceOutput(this.shown);
  }

  /** A cell deleted in mid-run takes no outputs; the run goes on. */
  private async attempt(work: () => PromiseLike<void> | undefined): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.log.info(`${this.id}: ${words(error)}`);
    }
  }
}
