import * as vscode from "vscode";
import type { Log } from "../log";
import { words } from "../errors";
import type { Runs } from "../notebook/runs";
import type { Execution } from "../server/protocol";
import type { RootServer } from "../server/root";
import { authorName } from "./words";

const { t } = vscode.l10n;

/** Answers `input()`: at once for what this window ran, after a click for what others did. */
export class InputBoxes implements vscode.Disposable {
  private readonly asked = new Map<string, vscode.CancellationTokenSource>();
  private readonly subscription;

  constructor(
    runs: Runs,
    private readonly log: Log,
  ) {
    this.subscription = runs.onInput(({ server, execution, mine }) => void this.ask(server, execution, mine));
  }

  dispose(): void {
    this.subscription.dispose();
    for (const source of this.asked.values()) source.cancel();
  }

  private async ask(server: RootServer, execution: Execution, mine: boolean): Promise<void> {
    const id = `${execution.execution_id}\0${execution.input_prompt ?? ""}`;
    if (this.asked.has(id)) return;
    const source = new vscode.CancellationTokenSource();
    this.asked.set(id, source);
    const ended = server.onExecution(({ execution_id, status }) => {
      if (execution_id === execution.execution_id && status !== "waiting_input") source.cancel();
    });
    try {
      if (!mine && !(await this.wants(execution))) return;
      const text = await vscode.window.showInputBox({
        prompt: execution.input_prompt ?? "", title: t("Input for the running cell"), ignoreFocusOut: true,
        password: /password|passwort|getpass|secret|token/i.test(execution.input_prompt ?? ""),
      }, source.token);
      if (text === undefined || source.token.isCancellationRequested) return;
      await (await server.ready()).perform("send_input", { execution_id: execution.execution_id, text }, { timeout: 0 });
    } catch (error) {
      this.log.warn(`Input: ${words(error)}`);
    } finally {
      ended.dispose();
      this.asked.delete(id);
    }
  }

  private async wants(execution: Execution): Promise<boolean> {
    const answer = t("Answer");
    const text = t("A cell that {0} runs asks: {1}", authorName(execution.author), execution.input_prompt ?? "");
    return (await vscode.window.showInformationMessage(text, answer)) === answer;
  }
}
