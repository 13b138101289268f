import { type Disposable, Emitter } from "../emitter";
import { type Client, Refused, Unreachable } from "./client";
import { follow } from "./follow";
import { InOrder } from "./order";
import { API, type Approval, type EditRequest, type Execution, type Kernel, type Lease, type OutputEvent, type State } from "./protocol";
import type { SseEvent } from "./sse";
import { KnownState } from "./state";

export interface Started {
  readonly client: Client;
  readonly version: string;
}

export interface RootLog {
  info(text: string): void;
  warn(text: string): void;
}

/** One folder's server, as one window of the editor sees it. Survives the server: the next is found or started. */
export class RootServer implements Disposable {
  readonly state = new KnownState();
  /** A window posts one thing at a time. */
  readonly posts = new InOrder();
  readonly onChange: Emitter<void>["on"];
  readonly onState: Emitter<State>["on"];
  readonly onExecution: Emitter<Execution>["on"];
  readonly onOutput: Emitter<OutputEvent>["on"];
  readonly onEdit: Emitter<EditRequest>["on"];
  readonly onLease: Emitter<Lease>["on"];
  readonly onKernel: Emitter<Kernel>["on"];
  readonly onApproval: Emitter<Approval>["on"];
  private readonly emitters;
  private readonly ended = new AbortController();
  private following: Promise<void> | undefined;
  private current: Started | undefined;
  private connection: { ready: Promise<Client>; resolve: (client: Client) => void; reject: (error: unknown) => void } | undefined;
  /** The stream stands. */
  connected = false;
  /** Why there is no server; undefined while there is one, or none was asked for. */
  problem: unknown;

  /**
   * @param start finds or starts the server; asked again whenever the one before does not answer.
   */
  constructor(
    readonly root: string,
    readonly window: string,
    private readonly start: (signal: AbortSignal) => Promise<Started>,
    private readonly log: RootLog,
  ) {
    const failed = (error: unknown): void => this.log.warn(`A listener failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
    this.emitters = {
      change: new Emitter<void>(failed), state: new Emitter<State>(failed), execution: new Emitter<Execution>(failed),
      output: new Emitter<OutputEvent>(failed), edit: new Emitter<EditRequest>(failed), lease: new Emitter<Lease>(failed),
      kernel: new Emitter<Kernel>(failed), approval: new Emitter<Approval>(failed),
    };
    this.onChange = this.emitters.change.on;
    this.onState = this.emitters.state.on;
    this.onExecution = this.emitters.execution.on;
    this.onOutput = this.emitters.output.on;
    this.onEdit = this.emitters.edit.on;
    this.onLease = this.emitters.lease.on;
    this.onKernel = this.emitters.kernel.on;
    this.onApproval = this.emitters.approval.on;
  }

  /** Whether anybody has asked for the server yet. */
  get isWanted(): boolean {
    return this.following !== undefined;
  }

  get client(): Client | undefined {
    return this.current?.client;
  }

  /**
   * The server, with this window known to it; started if need be.
   *
   * @throws whatever kept it from starting.
   */
  async ready(): Promise<Client> {
    if (this.following === undefined) this.follow();
    if (this.connected && this.current !== undefined) return this.current.client;
    return await this.awaited().ready;
  }

  /** Post what belongs to this window, after what was posted before. */
  async post<T>(body: unknown): Promise<T> {
    return await this.posts.do(async () => (await this.ready()).post<T>(`/api/editor/${this.window}`, body));
  }

  /** End the connection; the server and its kernels stay. Asked for again, it is taken up again. */
  disconnect(): void {
    this.ended.abort(new Error("disconnected"));
    this.current?.client.dispose();
  }

  dispose(): void {
    this.disconnect();
  }

  private awaited(): NonNullable<RootServer["connection"]> {
    if (this.connection === undefined) {
      let settle: { resolve: (client: Client) => void; reject: (error: unknown) => void } | undefined;
      const ready = new Promise<Client>((resolve, reject) => (settle = { resolve, reject }));
      ready.catch(() => undefined);
      this.connection = { ready, resolve: (client) => settle?.resolve(client), reject: (error) => settle?.reject(error) };
    }
    return this.connection;
  }

  private follow(): void {
    const path = `/api/editor/${this.window}?api=${String(API)}`;
    const { signal } = this.ended;
    this.following = follow({
      path, signal,
      connect: (attempt) => this.connect(attempt),
      onEvent: (event) => this.event(event),
      onState: (connected, error) => this.connectionChanged(connected, error),
    }).catch((error: unknown) => this.gaveUp(error));
  }

  private async connect(attempt: number): Promise<Client> {
    // The stream alone may have been cut off; only a server that does not answer is replaced.
    if (attempt <= 1 && this.current !== undefined) return this.current.client;
    try {
      const before = this.current;
      this.current = await this.start(this.ended.signal);
      before?.client.dispose();
      this.problem = undefined;
    } catch (error) {
      // Nothing that trying again would mend by itself: whoever waits is told, and the next who asks tries again.
      throw error instanceof Unreachable ? error : new NoServer(error);
    }
    return this.current.client;
  }

  private connectionChanged(connected: boolean, error: unknown): void {
    if (error !== undefined && !(error instanceof NoServer)) {
      this.log.info(`${this.root}: ${error instanceof Error ? error.message : "the stream ended"}`);
    }
    if (!connected) this.connected = false;
    this.emitters.change.fire();
  }

  private gaveUp(error: unknown): void {
    this.connected = false;
    this.following = undefined;
    const problem = error instanceof NoServer ? error.cause : error;
    if (!this.ended.signal.aborted) {
      this.problem = problem;
      this.log.warn(`${this.root}: ${problem instanceof Error ? problem.message : String(problem)}`);
    }
    this.connection?.reject(problem);
    this.connection = undefined;
    this.emitters.change.fire();
  }

  private event({ event, data }: SseEvent): void {
    const value = JSON.parse(data) as never;
    const { emitters, state } = this;
    switch (event) {
      case "state":
        state.replace(value);
        this.stands();
        emitters.state.fire(value);
        break;
      case "execution":
        state.execution(value);
        emitters.execution.fire(value);
        break;
      case "output":
        emitters.output.fire(value);
        return;
      case "kernel":
        state.kernel(value);
        emitters.kernel.fire(value);
        break;
      case "approval":
        state.approval(value);
        emitters.approval.fire(value);
        break;
      case "agents":
        state.agents = value;
        break;
      case "lease":
        state.leases.set((value as Lease).path, (value as Lease).owner);
        emitters.lease.fire(value);
        break;
      case "edit":
        emitters.edit.fire(value);
        return;
      default:
        return;
    }
    emitters.change.fire();
  }

  private stands(): void {
    if (this.current === undefined) return;
    this.connected = true;
    this.connection?.resolve(this.current.client);
    this.connection = undefined;
  }
}

/** No server can be had; `cause` is why. Ends the following. */
class NoServer extends Refused {
  constructor(override readonly cause: unknown) {
    super(0, "no_server", cause instanceof Error ? cause.message : String(cause), null);
  }
}
