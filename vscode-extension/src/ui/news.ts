import * as vscode from "vscode";
import type { Disposable } from "../emitter";
import type { Documents } from "../notebook/documents";
import type { SharedDocument } from "../notebook/document";
import type { Kernels } from "../notebook/kernels";
import type { Clash } from "../server/protocol";
import type { Servers } from "../server/registry";
import type { RootServer } from "../server/root";
import type { Reporter } from "./reporter";

const { t } = vscode.l10n;

/** Tells the person what has become of notebooks that they have open, where nothing they see would say so. */
export class News implements Disposable {
  private readonly subscriptions: Disposable[];

  constructor(
    servers: Servers,
    private readonly documents: Documents,
    private readonly kernels: Kernels,
    private readonly reporter: Reporter,
  ) {
    this.subscriptions = [servers.onAdded((server) => this.follow(server)), documents.onShared((shared) => this.followDocument(shared))];
    servers.all().forEach((server) => this.follow(server));
  }

  dispose(): void {
    for (const one of this.subscriptions) one.dispose();
  }

  private follow(server: RootServer): void {
    server.onKernel(({ change, notebooks, death }) => {
      if (change !== "died") return;
      for (const shared of this.documents.all()) {
        if (shared.server === server && notebooks.includes(shared.path)) void this.reporter.attempt(() => this.died(shared, death ?? ""));
      }
    });
  }

  private async died(shared: SharedDocument, how: string): Promise<void> {
    const restart = t("Restart Kernel");
    const answer = await vscode.window.showErrorMessage(t("The kernel of {0} is gone, with its variables: it {1}.", shared.path, how), restart);
    if (answer === restart) vscode.window.setStatusBarMessage(await this.kernels.restart(shared.document), 6_000);
  }

  private followDocument(shared: SharedDocument): void {
    shared.onTypedElsewhere(() => {
      void vscode.window.showWarningMessage(
        t("{0} is open in another window too, which shares it with agents. What you type here they see once that window is closed; type and save in one window only, or the editor asks which of two files to keep.", shared.path),
      );
    });
    shared.onClash((clashes) => void this.reporter.attempt(() => this.clashed(shared, clashes)));
  }

  /** The person's text stands; the other one is shown beside it on demand, and activity names who wrote it. */
  private async clashed(shared: SharedDocument, clashes: readonly Clash[]): Promise<void> {
    const [compare, activity] = [t("Compare"), t("Show Agent Activity")];
    const answer = await vscode.window.showWarningMessage(
      t("While this window was away, {0} cells of {1} were changed by others, and by you. Yours are kept.", clashes.length, shared.path), compare, activity,
    );
    if (answer === activity) await vscode.commands.executeCommand("mcp-server-jupyter.showActivity");
    if (answer !== compare) return;
    for (const { id, source } of clashes) {
      const cell = shared.cellOf(id);
      const [theirs, yours] = [{ language: cell?.document.languageId ?? "python", content: source }, cell?.document.uri];
      const left = await vscode.workspace.openTextDocument(theirs);
      if (yours === undefined) await vscode.window.showTextDocument(left, { preview: false });
      else await vscode.commands.executeCommand("vscode.diff", left.uri, yours, t("Others' ↔ Yours"), { preview: false });
    }
  }
}
