import * as vscode from "vscode";
import { Cancelled, Problem, words } from "../errors";
import type { Log } from "../log";
import { Refused, Unreachable } from "../server/client";

const { t } = vscode.l10n;

/** Says what went wrong, once, with the button that mends it. */
export class Reporter {
  private readonly shown = new Set<string>();

  constructor(private readonly log: Log) {}

  /** Do something a person asked for; what goes wrong is told them. */
  async attempt(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      this.tell(error);
    }
  }

  /** Do something nobody asked for just now: of the same trouble only the first is told. */
  async inBackground(work: () => Promise<void>): Promise<void> {
    try {
      await work();
    } catch (error) {
      if (this.shown.has(words(error))) return;
      this.shown.add(words(error));
      this.tell(error);
    }
  }

  tell(error: unknown): void {
    if (error instanceof Cancelled) return;
    this.log.error("Told", error);
    const text = error instanceof Problem || error instanceof Refused || error instanceof Unreachable ? error.message : t("Something failed: {0}", words(error));
    const button = error instanceof Problem ? error.button : isDead(error) ? { title: t("Restart Kernel"), command: "mcp-server-jupyter.restart" } : { title: t("Show Log"), command: "mcp-server-jupyter.showLog" };
    void this.offer(text, button);
  }

  private async offer(text: string, button: Problem["button"]): Promise<void> {
    const titles = button === undefined ? [] : [button.title];
    const answer = await vscode.window.showErrorMessage(text, ...titles);
    if (answer !== undefined && button !== undefined) await vscode.commands.executeCommand(button.command, ...(button.args ?? []));
  }
}

/** A kernel that died is never replaced behind anybody's back. */
function isDead(error: unknown): boolean {
  return error instanceof Refused && error.code === "kernel_dead";
}
