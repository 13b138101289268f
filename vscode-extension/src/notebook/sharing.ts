import * as vscode from "vscode";
import type { Disposable } from "../emitter";
import { environmentsFor } from "../python/environments";
import type { Installation } from "../python/installation";
import type { Client } from "../server/client";
import type { Servers } from "../server/registry";
import type { RootServer } from "../server/root";
import { settings } from "../settings";
import type { Reporter } from "../ui/reporter";
import { type Controllers, OWN } from "./controllers";
import { type Documents, isNotebook } from "./documents";
import { kernelspecName, toMetadata } from "./nbformat";

const JUPYTER = "ms-toolsai.jupyter";

/** Which notebooks are shared: those opened while the person has no other kernels, or says so, and those run with ours. */
export class Sharing implements Disposable {
  private readonly subscriptions: Disposable[] = [];
  private readonly offered = new Map<RootServer, Promise<void>>();
  private readonly checks = new Map<vscode.NotebookDocument, NodeJS.Timeout>();

  constructor(
    private readonly installation: Installation,
    private readonly servers: Servers,
    private readonly documents: Documents,
    private readonly controllers: Controllers,
    private readonly reporter: Reporter,
  ) {}

  start(): void {
    this.subscriptions.push(
      vscode.workspace.onDidOpenNotebookDocument((document) => this.opened(document)),
      vscode.workspace.onDidGrantWorkspaceTrust(() => this.openAll()),
      this.servers.onAdded((server) => this.offer(server)),
    );
    this.openAll();
  }

  dispose(): void {
    for (const one of this.subscriptions) one.dispose();
    for (const timer of this.checks.values()) clearTimeout(timer);
  }

  /** Open all that is open: at the start, and once the folder is trusted or the server is set up. */
  openAll(): void {
    for (const document of vscode.workspace.notebookDocuments) this.opened(document);
  }

  /** A kernel was chosen, or given up for another extension's. */
  selected(document: vscode.NotebookDocument): void {
    clearTimeout(this.checks.get(document));
    // The editor tells of the old and the new one in any order.
    this.checks.set(document, setTimeout(() => {
      this.checks.delete(document);
      void this.reporter.inBackground(() => this.settle(document));
    }, 50));
  }

  /** Choose our kernel for a notebook, and tell the server of it. */
  async share(document: vscode.NotebookDocument, kernelName?: string): Promise<void> {
    if (this.installation.current !== undefined) {
      const shared = await this.documents.share(document);
      if (shared !== undefined) await this.offered.get(shared.server);
    }
    const id = this.controllers.idFor(kernelName ?? kernelspecName({ cells: [], metadata: toMetadata(document.metadata) }));
    this.controllers.prefer(document, id);
    if (this.controllers.of(document) === undefined || kernelName !== undefined) await this.controllers.select(document, id);
  }

  private opened(document: vscode.NotebookDocument): void {
    if (!isNotebook(document)) return;
    if (!takesOver()) return;
    this.controllers.prefer(document, OWN);
    if (!vscode.workspace.isTrusted) return;
    void this.reporter.inBackground(() => this.share(document));
  }

  private async settle(document: vscode.NotebookDocument): Promise<void> {
    if (!isNotebook(document) || document.isClosed || !vscode.workspace.isTrusted) return;
    const isOurs = this.controllers.of(document) !== undefined;
    const there = this.documents.get(document);
    if (there !== undefined) await there.setShared(isOurs);
    else if (isOurs && this.installation.current !== undefined) await this.documents.share(document);
  }

  private offer(server: RootServer): void {
    server.onState(() => {
      const offering = this.reporter.inBackground(async () => {
        const specs = await kernelspecs(await server.ready());
        this.controllers.offer(specs, await environmentsFor([server.root]));
      });
      this.offered.set(server, offering);
    });
  }
}

/** The Jupyter extension's choice is not taken over, unless the person says so. */
function takesOver(): boolean {
  const mode = settings.shareOnOpen();
  return mode === "always" || (mode === "whenAlone" && vscode.extensions.getExtension(JUPYTER) === undefined);
}

/** Every kernelspec that can be started, with its name for people. */
export async function kernelspecs(client: Client): Promise<Map<string, string>> {
  const { data } = await client.operation("list_kernels", {});
  const names = (data["display_names"] ?? {}) as { [name: string]: string };
  const specs = (data["kernelspecs"] ?? []) as string[];
  return new Map(specs.map((name) => [name, names[name] ?? name]));
}
