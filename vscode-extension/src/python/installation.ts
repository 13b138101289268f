import * as vscode from "vscode";
import { Cancelled, Problem, words } from "../errors";
import { Emitter } from "../emitter";
import type { Log } from "../log";
import { settings } from "../settings";
import { type Bundle, BrokenBundle, readBundle } from "./bundle";
import { knownInterpreters } from "./environments";
import { clearFailure, noteFailure, readFailure } from "./failures";
import { type Candidate, find, fromUv, type Interpreter, OLDEST, onPath, type Search } from "./find";
import { writeLauncher } from "./launcher";
import { discard, type Installed, installedForAny, setUp, SetupFailed, type Step } from "./venv";

const { t } = vscode.l10n;
const REPAIR = { title: t("Set Up / Repair"), command: "mcp-server-jupyter.setUp" };
const SHOW_LOG = { title: t("Show Log"), command: "mcp-server-jupyter.showLog" };

/** The server's own environment: made once, found ever after. */
export class Installation {
  private readonly changed = new Emitter<void>();
  readonly onChange = this.changed.on;
  private making: Promise<Installed> | undefined;
  current: Installed | undefined;
  /** Why there is none. */
  problem: Error | undefined;

  constructor(
    private readonly storage: string,
    private readonly bundleFolder: string,
    private readonly log: Log,
  ) {}

  get isBusy(): boolean {
    return this.making !== undefined;
  }

  /** What an earlier window has set up; asks nothing and changes nothing. */
  async look(): Promise<Installed | undefined> {
    if (this.current !== undefined) return this.current;
    try {
      this.current = await installedForAny(this.storage, await this.bundle());
      if (this.current === undefined) return undefined;
      await writeLauncher(this.storage, this.current.python);
    } catch (error) {
      // Whoever hears of a change looks again: the same trouble is told once.
      if (this.problem !== undefined) return undefined;
      this.problem = error as Error;
    }
    this.changed.fire();
    return this.current;
  }

  async bundle(): Promise<Bundle> {
    return await readBundle(this.bundleFolder);
  }

  /**
   * The environment, made if need be, with progress that can be cancelled.
   *
   * @param asked whether the person asked for it: a set-up that failed is not tried again otherwise.
   * @throws Problem, Cancelled.
   */
  async ensure(asked: boolean): Promise<Installed> {
    refuseWhereNothingRuns();
    if (this.making !== undefined) return await this.making;
    const there = await this.look();
    if (there !== undefined) return there;
    this.making = this.make(asked).finally(() => {
      this.making = undefined;
      this.changed.fire();
    });
    this.changed.fire();
    return await this.making;
  }

  /** Make it anew, whatever there is. */
  async repair(): Promise<Installed> {
    if (this.making !== undefined) return await this.making;
    refuseWhereNothingRuns();
    this.current = undefined;
    this.making = this.make(true, true).finally(() => {
      this.making = undefined;
      this.changed.fire();
    });
    this.changed.fire();
    return await this.making;
  }

  private async make(asked: boolean, anew = false): Promise<Installed> {
    refuseWhereNothingRuns();
    try {
      const bundle = await this.bundle();
      const failure = asked ? undefined : await readFailure(this.storage, bundle.version);
      if (failure !== undefined) throw new Problem(t("Setting up the server failed before: {0}", failure.details), REPAIR);
      const done = await vscode.window.withProgress(
        { location: vscode.ProgressLocation.Notification, title: t("Jupyter with Agents: setting up"), cancellable: true },
        (progress, token) => this.steps(bundle, anew, progress, token),
      );
      await clearFailure(this.storage);
      this.problem = undefined;
      this.current = done;
      await writeLauncher(this.storage, done.python);
      this.log.info(`Set up ${done.version} in ${done.folder}`);
      return done;
    } catch (error) {
      throw await this.failed(error);
    }
  }

  private async steps(
    bundle: Bundle, anew: boolean, progress: vscode.Progress<{ message: string }>, token: vscode.CancellationToken,
  ): Promise<Installed> {
    const abort = new AbortController();
    token.onCancellationRequested(() => abort.abort(new Cancelled(t("Cancelled."))));
    progress.report({ message: t("looking for Python") });
    const interpreter = await this.interpreter(abort.signal);
    if (anew) await discard(this.storage, bundle, interpreter);
    return await setUp({
      storage: this.storage, bundle, interpreter, source: settings.installSource(), signal: abort.signal,
      report: (step) => progress.report({ message: stepWords(step) }),
      log: (line) => this.log.info(line),
    });
  }

  private async interpreter(signal: AbortSignal): Promise<Interpreter> {
    const search = await find(candidates(signal));
    for (const { path, why, version } of search.rejected) this.log.info(`Not used: ${path} ${version ?? ""} (${why})`);
    if (search.found === undefined) throw noPython(search);
    this.log.info(`Python ${search.found.version.join(".")}: ${search.found.path}`);
    return search.found;
  }

  private async failed(error: unknown): Promise<Error> {
    if (error instanceof Cancelled) return error;
    this.log.error("Set-up failed", error);
    const problem = error instanceof Problem ? error : described(error);
    this.problem = problem;
    const version = await this.bundle().then((bundle) => bundle.version, () => "?");
    const kind = error instanceof SetupFailed ? error.kind : "other";
    await noteFailure(this.storage, { version, kind, details: problem.message, at: new Date().toISOString() });
    return problem;
  }
}

async function* candidates(signal: AbortSignal): AsyncGenerator<Candidate> {
  const set = settings.pythonPath();
  if (set !== "") {
    yield { path: set, from: "the setting python.path" };
    return;
  }
  yield* knownInterpreters();
  const searchPath = process.env["PATH"] ?? "";
  yield* onPath(searchPath, process.platform);
  yield* await fromUv(searchPath, signal);
}

function noPython({ rejected }: Search): Problem {
  const oldest = OLDEST.join(".");
  const setting = { title: t("Choose Python…"), command: "workbench.action.openSettings", args: ["mcp-server-jupyter.python.path"] };
  const set = settings.pythonPath();
  if (set !== "") return new Problem(t("The Python in the setting python.path cannot be used: {0}. The server needs Python {1} or newer.", set, oldest), setting);
  const old = rejected.find(({ why }) => why === "old");
  if (old !== undefined) return new Problem(t("The server needs Python {0} or newer; the newest here is {1}.", oldest, old.version ?? ""), setting);
  return new Problem(t("There is no Python here. Install Python {0} or newer (python.org, your system's packages, or uv), or say where it is.", oldest), setting);
}

function described(error: unknown): Problem {
  if (error instanceof BrokenBundle) {
    return new Problem(t("The extension's files are not complete: {0} Install it again.", error.message), { title: t("Show Extension"), command: "workbench.extensions.search", args: ["@installed Jupyter with Agents"] }, { cause: error });
  }
  if (!(error instanceof SetupFailed)) return new Problem(t("Setting up the server failed: {0}", words(error)), SHOW_LOG, { cause: error });
  switch (error.kind) {
    case "disk-full":
      return new Problem(t("The disk is full: the server needs 120 MB at {0}. Make room, then set up again.", error.details), REPAIR, { cause: error });
    case "index":
      return new Problem(t("The package index did not give what the server needs: {0} Where there is no index, install the extension's package for this platform, which brings everything.", error.details), REPAIR, { cause: error });
    case "offline":
      return new Problem(t("This package of the extension has no wheels for the Python found ({0}), and install.source forbids an index.", error.details), { title: t("Open Settings"), command: "workbench.action.openSettings", args: ["mcp-server-jupyter.install.source"] }, { cause: error });
    case "venv":
      return new Problem(t("This Python makes no virtual environment: {0}", error.details), SHOW_LOG, { cause: error });
    case "broken":
    case "check":
      return new Problem(t("The server was installed but does not start: {0}", error.details), SHOW_LOG, { cause: error });
  }
}

/** Windows has no local kernels; an untrusted folder gets nothing installed. */
function refuseWhereNothingRuns(): void {
  if (process.platform === "win32") {
    throw new Problem(t("Kernels do not run on Windows itself. Open the folder in WSL or on a remote machine, where the extension works as usual."), {
      title: t("Open in WSL"), command: "workbench.extensions.search", args: ["ms-vscode-remote.remote-wsl"],
    });
  }
  if (!vscode.workspace.isTrusted) {
    throw new Problem(t("This folder is not trusted: notebooks can be read, nothing is installed or run."), { title: t("Manage Trust"), command: "workbench.trust.manage" });
  }
}

function stepWords(step: Step): string {
  switch (step) {
    case "waiting":
      return t("waiting for another window");
    case "environment":
      return t("making an environment of its own");
    case "packages":
      return t("installing the server");
    case "check":
      return t("trying it");
  }
}
