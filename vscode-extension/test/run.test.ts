import { expect, test } from "vitest";
import type * as vscode from "vscode";
import { CellRun } from "../src/notebook/run";
import type { Client } from "../src/server/client";
import type { DoneStatus, Execution, LiveStatus, Output, WholeOutputs } from "../src/server/protocol";

const log = { info: () => undefined, warn: () => undefined, error: () => undefined };
const stream = (text: string): Output => ({ output_type: "stream", name: "stdout", text });

const told = (status: LiveStatus | DoneStatus, seq: number): Execution => ({
  execution_id: "x", notebook: "a.ipynb", cell_id: "c", kernel_id: "k", author: "user", status, kernel_epoch: 1, execution_count: 1,
  queued_at: 1, started_at: 1, finished_at: status === "ok" ? 7 : null, input_prompt: null, note: "", batch: null, seq,
});

/** What the editor's own execution of a cell shows; the editor itself is only in the tests that drive it. */
class Shown {
  text = "";
  ended: { success: boolean | undefined; text: string } | undefined;
  executionOrder: number | undefined;
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
  async appendOutput(output: vscode.NotebookCellOutput): Promise<void> {
    await Promise.resolve();
    this.text += output.items.map(({ data }) => Buffer.from(data).toString()).join("");
  }
  end(success: boolean | undefined): void {
    this.ended = { success, text: this.text };
  }
}

function begun(outputs: () => Promise<WholeOutputs>): { run: CellRun; shown: Shown } {
  const shown = new Shown();
  const client = { outputs } as unknown as Client;
  const begin = async (): Promise<vscode.NotebookCellExecution> => Promise.resolve(shown as unknown as vscode.NotebookCellExecution);
  const run = new CellRun("x", {} as vscode.NotebookCell, { ready: async () => Promise.resolve(client) }, begin, log as never);
  return { run, shown };
}

const whole = (status: LiveStatus | DoneStatus, seq: number, text: string): WholeOutputs =>
  ({ status, seq, outputs: [stream(text)], execution_count: 1, note: "" });

test("a run that ends before its window has read what it showed shows all of it", async () => {
  let answer: (value: WholeOutputs) => void = () => undefined;
  const first = new Promise<WholeOutputs>((resolve) => (answer = resolve));
  const answers = [first, Promise.resolve(whole("ok", 9, "all of it"))];
  const { run, shown } = begun(async () => (await answers.shift()) ?? whole("ok", 9, "all of it"));
  await run.update(told("running", 0));
  const refreshed = run.refresh();
  await run.update(told("ok", 9));
  expect(shown.ended).toEqual({ success: true, text: "all of it" });
  answer(whole("running", 3, "some"));
  await refreshed;
  expect(shown.text).toBe("all of it");
});

test("a run whose output was all heard is not asked for again", async () => {
  let asked = 0;
  const { run, shown } = begun(async () => Promise.resolve(whole("ok", ++asked, "")));
  await run.update(told("running", 0));
  run.output({ execution_id: "x", notebook: "a.ipynb", cell_id: "c", seq: 1, ops: [{ op: "clear" }, { op: "append", output: stream("heard") }] });
  await run.update(told("ok", 1));
  expect([shown.ended?.text, asked]).toEqual(["heard", 0]);
});

test("a run that is done is shown whole from a journal that does not count its output", async () => {
  const { run, shown } = begun(async () => Promise.resolve(whole("ok", 0, "from the journal")));
  await run.update(told("running", 0));
  run.output({ execution_id: "x", notebook: "a.ipynb", cell_id: "c", seq: 4, ops: [{ op: "clear" }, { op: "append", output: stream("some") }] });
  await run.update(told("ok", 6));
  expect(shown.ended?.text).toBe("from the journal");
});

test("a run whose outputs cannot be read ends all the same", async () => {
  const { run, shown } = begun(async () => Promise.reject(new Error("gone")));
  await run.update(told("running", 0));
  await run.update(told("ok", 9));
  expect(shown.ended).toEqual({ success: true, text: "" });
});

test("a run whose notebook is moved writes nothing there until it is known where it is", async () => {
  const { run, shown } = begun(async () => Promise.resolve(whole("running", 1, "some")));
  await run.update(told("running", 0));
  let release: () => void = () => undefined;
  run.hold(new Promise((resolve) => (release = resolve)));
  run.output({ execution_id: "x", notebook: "a.ipynb", cell_id: "c", seq: 1, ops: [{ op: "append", output: stream("some") }] });
  const ended = run.update(told("ok", 1));
  await new Promise((resolve) => setTimeout(resolve, 0));
  expect([shown.text, shown.ended]).toEqual(["", undefined]);
  release();
  await ended;
  expect(shown.ended).toEqual({ success: true, text: "some" });
});

test("a run whose notebook has left writes nothing there any more", async () => {
  const { run, shown } = begun(async () => Promise.resolve(whole("running", 1, "some")));
  await run.update(told("running", 0));
  let release: () => void = () => undefined;
  run.hold(new Promise((resolve) => (release = resolve)));
  const ended = run.update(told("ok", 1));
  run.output({ execution_id: "x", notebook: "a.ipynb", cell_id: "c", seq: 1, ops: [{ op: "append", output: stream("some") }] });
  run.drop();
  release();
  await ended;
  expect([shown.text, shown.ended]).toEqual(["", undefined]);
});
