import { join } from "node:path";
import * as vscode from "vscode";
import { Controllers } from "./notebook/controllers";
import { Documents } from "./notebook/documents";
import { Kernels } from "./notebook/kernels";
import { Runs } from "./notebook/runs";
import { Sharing } from "./notebook/sharing";
import { Log } from "./log";
import { Installation } from "./python/installation";
import { Servers } from "./server/registry";
import { registerMcp } from "./mcp/provider";
import { Approvals } from "./ui/approvals";
import { CellMarks } from "./ui/cellMarks";
import { registerCommands } from "./ui/commands";
import { InputBoxes } from "./ui/input";
import { News } from "./ui/news";
import { followPolicy } from "./ui/policy";
import { Reporter } from "./ui/reporter";
import { Status } from "./ui/status";
import { ActivityView, KernelsView } from "./ui/views";

let closing: (() => Promise<void>) | undefined;

/** Wiring only: what is made here lives until the window ends. */
export async function activate(context: vscode.ExtensionContext): Promise<void> {
  const log = new Log();
  const installation = new Installation(context.globalStorageUri.fsPath, join(context.extensionPath, "python_server"), log);
  const servers = new Servers(installation, log);
  const documents = new Documents(servers, log);
  const reporter = new Reporter(log);
  const controllers: Controllers = new Controllers(context.extension.id, {
    run: (cells, notebook, choice) => reporter.attempt(() => kernels.run(cells, notebook, choice)),
    interrupt: (notebook) => reporter.attempt(async () => {
      await kernels.interrupt(notebook);
    }),
    selected: (notebook, isSelected) => {
      sharing.selected(notebook);
      if (isSelected) runs.chosen(notebook).catch((error: unknown) => log.error("A kernel was chosen", error));
    },
  });
  const runs: Runs = new Runs(documents, controllers.begin, log);
  const kernels: Kernels = new Kernels(installation, documents, runs, log);
  const sharing: Sharing = new Sharing(installation, servers, documents, controllers, reporter);
  servers.onAdded((server) => runs.follow(server));
  documents.start(runs);
  context.subscriptions.push(log, servers, documents, controllers, runs, sharing);
  const approvals = new Approvals(servers, log);
  const marks = new CellMarks(documents, servers);
  const kernelsView = new KernelsView(servers);
  const activityView = new ActivityView(servers);
  context.subscriptions.push(
    approvals, marks, kernelsView, activityView, new InputBoxes(runs, log), new Status(installation, servers, documents, kernels), followPolicy(servers, reporter),
    new News(servers, documents, kernels, reporter),
    ...registerMcp(installation, context.globalStorageUri.fsPath),
    ...registerCommands({
      context, log, installation, servers, documents, controllers, kernels, sharing, reporter, approvals, marks, kernelsView, activityView,
    }),
  );
  closing = () => documents.closeAll();
  await installation.look();
  sharing.start();
}

/** The window ends or is loaded again: what it owns is given back at once rather than after a wait. */
export async function deactivate(): Promise<void> {
  await closing?.();
}
