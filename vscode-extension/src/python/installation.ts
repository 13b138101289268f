import * as vscode from "vscode";
import { Cancelled, Problem } from "../errors";
import { Emitter } from "../emitter";
import type { Log } from "../log";
import { settings } from "../settings";
import { type Bundle, readBundle } from "./bundle";
import { knownInterpreters } from "./environments";
import { clearFailure, noteFailure, readFailure } from "./failures";
import { type Candidate, find, fromUv, type Interpreter, onPath } from "./find";
import { writeLauncher } from "./launcher";
import { described, noPython, refuseWhereNothingRuns, REPAIR, stepWords } from "./problems";
import { discard, type Installed, installedForAny, setUp, SetupFailed } from "./venv";

const { t } = vscode.l10n;

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
    refuseWhereNothingRuns(process.platform, vscode.workspace.isTrusted);
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
    refuseWhereNothingRuns(process.platform, vscode.workspace.isTrusted);
    this.current = undefined;
    this.making = this.make(true, true).finally(() => {
      this.making = undefined;
      this.changed.fire();
    });
    this.changed.fire();
    return await this.making;
  }

  private async make(asked: boolean, anew = false): Promise<Installed> {
    refuseWhereNothingRuns(process.platform, vscode.workspace.isTrusted);
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
    if (search.found === undefined) throw noPython(search, settings.pythonPath());
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
