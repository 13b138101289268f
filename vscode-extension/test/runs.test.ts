import { expect, test } from "vitest";
import type * as vscode from "vscode";
import { Emitter } from "../src/emitter";
import { Runs } from "../src/notebook/runs";
import type { DoneStatus, Execution, LiveStatus, Output, OutputEvent, WholeOutputs } from "../src/server/protocol";
import type { RootServer } from "../src/server/root";
import { KnownState } from "../src/server/state";

const log = { info: () => undefined, warn: () => undefined, error: () => undefined };
const stream = (text: string): Output => ({ output_type: "stream", name: "stdout", text });
const notebook = {} as vscode.NotebookDocument;
const cell = { notebook, index: 0, outputs: [] } as unknown as vscode.NotebookCell;

const told = (status: LiveStatus | DoneStatus, seq: number): Execution => ({
  execution_id: "x", notebook: "a.ipynb", cell_id: "c", kernel_id: "k", author: "user", status, kernel_epoch: 1, execution_count: 1,
  queued_at: 1, started_at: 1, finished_at: status === "ok" ? 7 : null, input_prompt: null, note: "", batch: null, seq,
});

/** What the editor's own executions of the cell show. */
class Shown {
  text = "";
  readonly ends: (boolean | undefined)[] = [];
  start(): void {
    this.text = "";
  }
  async clearOutput(): Promise<void> {
    await Promise.resolve();
    this.text = "";
  }
  async replaceOutput(outputs: vscode.NotebookCellOutput[]): Promise<void> {
    await Promise.resolve();
    this.text = outputs.flatMap(({ items }) => items.map(({ data }) => Buffer.from(data).toString())).join("");
  }
  end(success: boolean | undefined): void {
    this.ends.push(success);
  }
}

/** A server that tells what the test says, and a window whose editor takes runs when the test says so. */
class Told {
  readonly state = new KnownState();
  readonly executions = new Emitter<Execution>();
  readonly outputs = new Emitter<OutputEvent>();
  readonly states = new Emitter<void>();
  readonly onExecution = this.executions.on;
  readonly onOutput = this.outputs.on;
  readonly onState = this.states.on;
  readonly shown = new Shown();
  isOpen = true;
  takes = true;
  whole: WholeOutputs = { status: "running", seq: 1, outputs: [stream("some")], execution_count: 1, note: "" };
  readonly runs: Runs;

  constructor() {
    const begin = async (): Promise<vscode.NotebookCellExecution | undefined> =>
      Promise.resolve(this.takes ? (this.shown as unknown as vscode.NotebookCellExecution) : undefined);
    const finder = { cellOf: () => (this.isOpen ? cell : undefined), saveForAgents: () => undefined };
    this.runs = new Runs(finder, begin, log as never);
    this.runs.follow(this.server);
  }

  get server(): RootServer {
    return this as unknown as RootServer;
  }

  async ready(): Promise<{ outputs: () => Promise<WholeOutputs> }> {
    return Promise.resolve({ outputs: async () => Promise.resolve(this.whole) });
  }

  tell(execution: Execution): void {
    this.state.execution(execution);
    this.executions.fire(execution);
  }

  ends(): void {
    this.whole = { status: "ok", seq: 2, outputs: [stream("all of it")], execution_count: 1, note: "" };
    this.tell(told("ok", 2));
  }
}

test("a run that ends while its notebook is being opened shows all it put out, and how it ended", async () => {
  const window = new Told();
  window.isOpen = false;
  window.tell(told("running", 1));
  window.isOpen = true;
  await window.runs.open(window.server, "a.ipynb", async () => {
    await Promise.resolve();
    window.ends();
  });
  expect(window.shown.text).toBe("all of it");
  expect(window.shown.ends).toEqual([true]);
});

test("a run that has ended before the editor takes it says how it ended once it does", async () => {
  const window = new Told();
  window.takes = false;
  const finished = new Promise((resolve) => window.runs.onFinished(resolve));
  window.tell(told("running", 1));
  window.ends();
  await finished;
  window.takes = true;
  await window.runs.chosen(notebook);
  expect(window.shown.text).toBe("all of it");
  expect(window.shown.ends).toEqual([true]);
});

test("outputs that come with a notebook do not replace those of the run that fills their cell", async () => {
  const window = new Told();
  window.tell(told("running", 1));
  await window.runs.open(window.server, "a.ipynb", async () =>
    window.runs.writeOutputs(cell, { op: "outputs", id: "c", outputs: [stream("older")], execution_count: 1 }));
  expect(window.shown.ends).toEqual([]);
  const finished = new Promise((resolve) => window.runs.onFinished(resolve));
  window.ends();
  await finished;
  expect(window.shown.text).toBe("all of it");
  expect(window.shown.ends).toEqual([true]);
});
