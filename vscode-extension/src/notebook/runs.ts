import * as vscode from "vscode";
import { Emitter, type Disposable } from "../emitter";
import { words } from "../errors";
import type { Log } from "../log";
import { type Execution, isDone, type Op, type OutputEvent } from "../server/protocol";
import type { RootServer } from "../server/root";
import type { OutputWriter } from "./document";
import { toEditorOutput } from "./edits";
import { type Begin, CellRun } from "./run";

/** Where executions without a path belong, and where those with one do. */
export interface CellFinder {
  cellOf(server: RootServer, execution: Pick<Execution, "notebook" | "cell_id">): vscode.NotebookCell | undefined;
  /** What others have run is saved where the person had nothing unsaved. */
  saveForAgents(notebook: vscode.NotebookDocument): void;
}

type OutputsOp = Extract<Op, { op: "outputs" }>;

/** Outputs, and how their run ended if that is known. */
interface Unshown {
  readonly op: OutputsOp;
  readonly summary: vscode.NotebookCellExecutionSummary | undefined;
}

const SETTLES = 1_500;
const MOST_KEPT = 100;

/** Everybody's runs, each in its cell. */
export class Runs implements OutputWriter, Disposable {
  private readonly runs = new Map<string, CellRun>();
  /** Outputs that the editor took from nobody yet: no kernel of ours is chosen, or not known here to be. */
  private readonly unshown = new Map<vscode.NotebookCell, Unshown>();
  private readonly wrotes = new WeakMap<vscode.NotebookCell, { at: number; outputs: number }>();
  private readonly late = new Map<string, NodeJS.Timeout>();
  private readonly cells = new Map<string, vscode.NotebookCell>();
  /** Runs that were done, and those that ended unseen, before anybody here said that they were this window's. */
  private readonly ended = new Map<string, true>();
  private readonly missed = new Map<string, Execution>();
  /** Notebooks into which nothing is written before a promise is resolved. */
  private readonly held = new Map<vscode.NotebookDocument, Promise<void>>();
  /** Notebooks that are closed here, or about to be. */
  private readonly left = new WeakSet<vscode.NotebookDocument>();
  private readonly asked = new Emitter<{ server: RootServer; execution: Execution; mine: boolean }>();
  /** A run wants an answer. */
  readonly onInput = this.asked.on;
  private readonly finished = new Emitter<{ cell: vscode.NotebookCell; execution: Execution }>();
  readonly onFinished = this.finished.on;

  constructor(
    private readonly finder: CellFinder,
    private readonly begin: Begin,
    private readonly log: Log,
  ) {}

  /** Follow one server's executions. */
  follow(server: RootServer): void {
    server.onExecution((execution) => void this.told(server, execution));
    server.onOutput((event) => this.output(server, event));
    server.onState(() => void this.reattach(server));
  }

  /** Cells that this window submits wait from this moment on. */
  submitted(server: RootServer, executionId: string, cell: vscode.NotebookCell): void {
    // A short one may have run before the answer that names it was read.
    if (this.ended.delete(executionId)) return;
    const isNew = !this.runs.has(executionId);
    this.cells.set(executionId, cell);
    const run = this.runOf(server, { execution_id: executionId, notebook: null, cell_id: null });
    void run?.prepare();
    const [living, missed] = [server.state.executions.get(executionId), this.missed.get(executionId)];
    if (!isNew || run === undefined) return;
    if (living !== undefined) void this.catchUp(server, living);
    else if (missed !== undefined) void this.makeUp(run, missed, true);
  }

  /** It ended before this window knew which cell was meant. */
  private async makeUp(run: CellRun, execution: Execution, mine: boolean): Promise<void> {
    this.missed.delete(run.id);
    await run.update({ ...execution, status: "running" });
    await run.refresh();
    await run.update(execution);
    this.done(run, execution, mine);
  }

  /**
   * Show what lives in a notebook that is being opened.
   *
   * @param open opens it; what ends meanwhile may have put out more than is in what was opened.
   */
  async open(server: RootServer, path: string, open: () => Promise<void>): Promise<void> {
    const living = (): Execution[] => [...server.state.executions.values()].filter(({ notebook }) => notebook === path);
    const before = living();
    await open();
    for (const execution of living()) await this.catchUp(server, execution);
    for (const { execution_id } of before) {
      const ended = this.missed.get(execution_id);
      const run = ended === undefined || this.runs.has(execution_id) ? undefined : this.runOf(server, ended);
      if (run !== undefined && ended !== undefined) await this.makeUp(run, ended, false);
    }
  }

  /** Write nothing into a notebook until this is resolved. */
  hold(notebook: vscode.NotebookDocument, until: Promise<void>): void {
    this.held.set(notebook, until);
    for (const run of this.runs.values()) if (run.cell.notebook === notebook) run.hold(until);
    void until.then(() => this.held.delete(notebook));
  }

  /** What runs in a notebook is not shown there any more. */
  closed(notebook: vscode.NotebookDocument): void {
    this.left.add(notebook);
    for (const [id, run] of this.runs) {
      if (run.cell.notebook !== notebook) continue;
      run.drop();
      this.runs.delete(id);
    }
    for (const [id, cell] of this.cells) if (cell.notebook === notebook) this.cells.delete(id);
    for (const cell of this.unshown.keys()) if (cell.notebook === notebook) this.unshown.delete(cell);
  }

  liveIn(cell: vscode.NotebookCell): Execution | undefined {
    return this.runIn(cell)?.last;
  }

  private runIn(cell: vscode.NotebookCell): CellRun | undefined {
    return [...this.runs.values()].find((run) => run.cell === cell && !run.isDone);
  }

  isBusy(notebook: vscode.NotebookDocument): boolean {
    return [...this.runs.values()].some(({ cell }) => cell.notebook === notebook);
  }

  wrote(cell: vscode.NotebookCell): boolean {
    if (this.runIn(cell) !== undefined) return true;
    const wrote = this.wrotes.get(cell);
    return wrote !== undefined && Date.now() - wrote.at < SETTLES && wrote.outputs > 0 === cell.outputs.length > 0;
  }

  async writeOutputs(cell: vscode.NotebookCell, op: OutputsOp): Promise<void> {
    await this.held.get(cell.notebook);
    const running = this.runIn(cell);
    await running?.prepare();
    // Whoever fills the cell has all of it, and later.
    if (running?.isShown === true) await running.refresh();
    else if (this.isUnshown(cell.notebook)) this.unshown.set(cell, { op, summary: undefined });
    else await this.write(cell, { op, summary: undefined });
  }

  private async write(cell: vscode.NotebookCell, { op, summary }: Unshown): Promise<void> {
    const note = (): unknown => this.wrotes.set(cell, { at: Date.now(), outputs: op.outputs.length });
    note();
    // The editor forgets how the last run ended when this begins.
    const { executionOrder, success, timing } = summary ?? cell.executionSummary ?? {};
    const execution = this.left.has(cell.notebook) ? undefined : await this.begin(cell);
    if (execution === undefined) {
      const running = this.runIn(cell);
      if (running === undefined) this.unshown.set(cell, { op, summary });
      else await running.refresh();
      return;
    }
    this.unshown.delete(cell);
    execution.executionOrder = op.execution_count ?? (op.outputs.length > 0 ? executionOrder : undefined);
    execution.start(timing?.startTime);
    await execution.replaceOutput(op.outputs.map(toEditorOutput));
    execution.end(success, timing?.endTime);
    note();
  }

  /** The editor takes no outputs for this notebook yet: each one would be waited for in vain. */
  private isUnshown(notebook: vscode.NotebookDocument): boolean {
    return [...this.unshown.keys()].some((cell) => cell.notebook === notebook);
  }

  /** A kernel of ours is chosen for a notebook: what the editor took from nobody is shown now. */
  async chosen(notebook: vscode.NotebookDocument): Promise<void> {
    for (const run of this.runs.values()) if (run.cell.notebook === notebook) await run.again();
    for (const [cell, unshown] of [...this.unshown]) {
      if (cell.notebook !== notebook || !this.unshown.delete(cell)) continue;
      if (cell.index >= 0 && this.liveIn(cell) === undefined) await this.write(cell, unshown);
    }
  }

  dispose(): void {
    for (const timer of this.late.values()) clearTimeout(timer);
    for (const run of this.runs.values()) run.abandon();
  }

  private runOf(server: RootServer, told: Pick<Execution, "execution_id" | "notebook" | "cell_id">): CellRun | undefined {
    const there = this.runs.get(told.execution_id);
    if (there !== undefined) return there;
    const cell = this.cells.get(told.execution_id) ?? this.finder.cellOf(server, told);
    if (cell === undefined) return undefined;
    const run = new CellRun(told.execution_id, cell, server, this.begin, this.log);
    this.runs.set(told.execution_id, run);
    const until = this.held.get(cell.notebook);
    if (until !== undefined) run.hold(until);
    return run;
  }

  private async told(server: RootServer, execution: Execution): Promise<void> {
    // One that ended before this window knew of it is in the document already.
    if (isDone(execution.status) && !this.runs.has(execution.execution_id) && !this.cells.has(execution.execution_id)) {
      keep(this.missed, execution.execution_id, execution);
      return;
    }
    const run = this.runOf(server, execution);
    if (run === undefined) return;
    try {
      await run.update(execution);
    } catch (error) {
      this.log.error(`Run ${execution.execution_id}`, error);
    }
    const mine = this.cells.has(execution.execution_id);
    if (execution.status === "waiting_input") this.asked.fire({ server, execution, mine });
    if (run.isDone) this.done(run, execution, mine);
  }

  private done(run: CellRun, execution: Execution, mine: boolean): void {
    if (!this.runs.has(run.id)) return;
    this.wrotes.set(run.cell, { at: Date.now(), outputs: run.cell.outputs.length });
    this.runs.delete(run.id);
    if (run.isShown) this.unshown.delete(run.cell);
    if (!this.cells.delete(run.id)) keep(this.ended, run.id, true);
    // Once a kernel of ours is chosen.
    if (!run.isShown && run.whole !== undefined && execution.started_at !== null) {
      const { outputs, execution_count } = run.whole;
      this.unshown.set(run.cell, { op: { op: "outputs", id: "", outputs, execution_count }, summary: summaryOf(execution) });
    }
    this.finished.fire({ cell: run.cell, execution });
    if (!mine) this.finder.saveForAgents(run.cell.notebook);
  }

  private output(server: RootServer, event: OutputEvent): void {
    const run = this.runs.get(event.execution_id);
    if (run !== undefined) {
      run.output(event);
      return;
    }
    // A thread that prints on after its run: the cell is written anew once it pauses.
    const cell = this.finder.cellOf(server, event);
    if (cell === undefined || server.state.executions.has(event.execution_id)) return;
    clearTimeout(this.late.get(event.execution_id));
    this.late.set(event.execution_id, setTimeout(() => void this.writeLate(server, event.execution_id, cell), 150));
  }

  private async writeLate(server: RootServer, id: string, cell: vscode.NotebookCell): Promise<void> {
    this.late.delete(id);
    try {
      const { outputs, execution_count } = await (await server.ready()).outputs(id);
      await this.writeOutputs(cell, { op: "outputs", id: "", outputs, execution_count });
    } catch (error) {
      this.log.info(`Late output of ${id}: ${words(error)}`);
    }
  }

  /** After a gap: what still lives goes on, what ended meanwhile is completed. */
  private async reattach(server: RootServer): Promise<void> {
    const live = server.state.executions;
    for (const run of this.runs.values()) if (run.server === server) run.forget();
    for (const execution of live.values()) await this.catchUp(server, execution);
    for (const run of [...this.runs.values()]) {
      if (live.has(run.id) || run.last === undefined || run.server !== server) continue;
      const status = await run.refresh();
      if (status === undefined) run.abandon();
      if (run.isDone) this.done(run, run.last, this.cells.has(run.id));
    }
  }

  private async catchUp(server: RootServer, execution: Execution): Promise<void> {
    const run = this.runOf(server, execution);
    if (run === undefined) return;
    await this.told(server, execution);
    if (execution.started_at !== null && !run.isDone) await run.refresh();
  }
}

function summaryOf({ status, started_at, finished_at, execution_count }: Execution): vscode.NotebookCellExecutionSummary {
  const timing = started_at === null ? undefined : { startTime: started_at * 1_000, endTime: (finished_at ?? started_at) * 1_000 };
  return {
    ...(execution_count === null ? {} : { executionOrder: execution_count }),
    ...(status === "aborted" ? {} : { success: status === "ok" }),
    ...(timing === undefined ? {} : { timing }),
  };
}

/** Remember the latest ones. */
function keep<T>(map: Map<string, T>, id: string, value: T): void {
  map.set(id, value);
  for (const old of map.keys()) if (map.size > MOST_KEPT) map.delete(old);
}
