import * as vscode from "vscode";
import type { Disposable } from "../emitter";
import type { Servers } from "../server/registry";
import type { RootServer } from "../server/root";
import { SECTION, settings } from "../settings";
import type { Reporter } from "./reporter";

/** Brings what the user has set for agents to every server; what nobody set stays as the server has it. */
export function followPolicy(servers: Servers, reporter: Reporter): Disposable {
  const tell = (server: RootServer): void => {
    const isSet = vscode.workspace.getConfiguration(SECTION).inspect("agents.run")?.globalValue !== undefined;
    const run = settings.agentsRun();
    if (!isSet || !server.connected || server.state.agents.run === run) return;
    void reporter.inBackground(async () => {
      await (await server.ready()).setAgents({ run });
    });
  };
  const follow = (server: RootServer): Disposable => server.onState(() => tell(server));
  servers.all().forEach(follow);
  return vscode.Disposable.from(
    servers.onAdded(follow),
    vscode.workspace.onDidChangeConfiguration((event) => {
      if (event.affectsConfiguration(`${SECTION}.agents.run`)) servers.all().forEach(tell);
    }),
  );
}
