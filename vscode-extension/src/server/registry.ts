import { randomUUID } from "node:crypto";
import * as vscode from "vscode";
import { type Disposable, Emitter } from "../emitter";
import { Problem } from "../errors";
import type { Log } from "../log";
import { chosenInterpreter } from "../python/environments";
import type { Installation } from "../python/installation";
import { settings } from "../settings";
import { Client, Unreachable } from "./client";
import { checkApi, isOlder, OtherApi, down, retire, StartFailed, up } from "./lifecycle";
import { RootServer, type Started } from "./root";

const { t } = vscode.l10n;

/** The servers that this window talks to: one for each root. */
export class Servers implements Disposable {
  private readonly byRoot = new Map<string, RootServer>();
  private readonly added = new Emitter<RootServer>();
  private readonly changed = new Emitter<RootServer>();
  readonly onAdded = this.added.on;
  /** Anything about any of them. */
  readonly onChange = this.changed.on;
  /** Made up anew: the editor's own session id is the same for two windows of one remote. */
  readonly window = `w-${randomUUID()}`;

  constructor(
    private readonly installation: Installation,
    private readonly log: Log,
  ) {}

  all(): RootServer[] {
    return [...this.byRoot.values()];
  }

  get(root: string): RootServer | undefined {
    return this.byRoot.get(root);
  }

  /** The server of a root; nothing is started before it is asked for. */
  of(root: string): RootServer {
    const there = this.byRoot.get(root);
    if (there !== undefined) return there;
    const server = new RootServer(root, this.window, (signal) => this.start(root, signal), this.log);
    this.byRoot.set(root, server);
    server.onChange(() => this.changed.fire(server));
    this.added.fire(server);
    return server;
  }

  /** End a root's server and its kernels, whichever protocol it speaks. */
  async end(root: string): Promise<void> {
    const { python } = await this.installation.ensure(true);
    await down(python, root);
  }

  /** Forget a server that was ended; the next who asks starts one. */
  forget(server: RootServer): void {
    server.dispose();
    if (this.byRoot.get(server.root) === server) this.byRoot.delete(server.root);
    this.changed.fire(server);
  }

  dispose(): void {
    for (const server of this.byRoot.values()) server.dispose();
  }

  private async start(root: string, signal: AbortSignal): Promise<Started> {
    const { python } = await this.installation.ensure(false);
    try {
      const record = await up({
        python, root, signal,
        interpreter: await chosenInterpreter(vscode.Uri.file(root)),
        lingerMinutes: changedFrom(settings.lingerMinutes(), 60), maxOutputBytes: changedFrom(settings.maxOutputBytes(), 33_554_432),
      });
      const client = new Client(record.url, record.token);
      await checkApi(client, record);
      this.log.info(`${root}: server ${record.version}, process ${String(record.pid)}`);
      await this.renew(client, record.version, root);
      return { client, version: record.version };
    } catch (error) {
      if (error instanceof Unreachable || signal.aborted) throw error;
      throw described(error, root);
    }
  }

  /** A server of an older extension goes as soon as nothing runs; the stream then finds the next. */
  private async renew(client: Client, version: string, root: string): Promise<void> {
    const { version: own } = await this.installation.bundle();
    if (isOlder(version, own) && (await retire(client))) this.log.info(`${root}: the server ${version} ends when idle; ${own} takes its kernels over`);
  }
}

/** Only what differs from the default is passed on: the server warns where it was started with something else. */
function changedFrom(value: number, standard: number): number | undefined {
  return value === standard ? undefined : value;
}

function described(error: unknown, root: string): unknown {
  const showLog = { title: t("Show Log"), command: "mcp-server-jupyter.showLog" };
  if (error instanceof OtherApi) {
    return new Problem(
      t("The server of {0} is version {1}, which this extension cannot talk to. Update the extension, or stop that server (its kernels end).", root, error.version),
      { title: t("Stop"), command: "mcp-server-jupyter.stopServer", args: [root] }, { cause: error },
    );
  }
  if (error instanceof StartFailed) return new Problem(t("The server of {0} does not start: {1}", root, error.message), showLog, { cause: error });
  return error;
}
