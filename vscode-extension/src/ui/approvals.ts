import * as vscode from "vscode";
import type { Disposable } from "../emitter";
import type { Log } from "../log";
import { words } from "../errors";
import type { Approval } from "../server/protocol";
import type { Servers } from "../server/registry";
import type { RootServer } from "../server/root";
import { authorName, firstLine } from "./words";

const { t } = vscode.l10n;

/** Asks the person whether an agent may run. */
export class Approvals implements Disposable {
  private readonly shown = new Set<string>();
  private readonly subscription: Disposable;

  constructor(
    private readonly servers: Servers,
    private readonly log: Log,
  ) {
    const follow = (server: RootServer): void => {
      server.onApproval((approval) => void this.told(server, approval));
      server.onState(({ approvals }) => {
        for (const approval of approvals) void this.told(server, approval);
      });
    };
    this.subscription = servers.onAdded(follow);
    servers.all().forEach(follow);
  }

  dispose(): void {
    this.subscription.dispose();
  }

  /** Decide one that waits; the newest where none is named. */
  async decide(decision: "approve" | "deny", root?: string, executionId?: string): Promise<void> {
    const server = root === undefined ? this.servers.all().find(({ state }) => state.approvals.size > 0) : this.servers.get(root);
    const id = executionId ?? [...(server?.state.approvals.keys() ?? [])].at(-1);
    if (server === undefined || id === undefined) return;
    await (await server.ready()).decide(id, decision, "once");
  }

  private async told(server: RootServer, approval: Approval): Promise<void> {
    if (approval.status !== "waiting" || this.shown.has(approval.execution_id)) return;
    this.shown.add(approval.execution_id);
    const [once, turn, notebook, deny] = [t("Approve"), t("This Turn"), t("This Notebook"), t("Deny")];
    const where = approval.notebook_path ?? t("a kernel without a notebook");
    const what = approval.cells > 1 ? t("{0} cells", approval.cells) : `“${firstLine(approval.code, 80)}”`;
    const answer = await vscode.window.showInformationMessage(t("{0} asks to run {1} in {2}.", authorName(approval.author), what, where), once, turn, notebook, deny);
    if (answer === undefined || !server.state.approvals.has(approval.execution_id)) return;
    const scope = answer === turn ? "turn" : answer === notebook ? "notebook" : "once";
    try {
      await (await server.ready()).decide(approval.execution_id, answer === deny ? "deny" : "approve", scope);
    } catch (error) {
      this.log.info(`Approval ${approval.execution_id}: ${words(error)}`);
    }
  }
}
