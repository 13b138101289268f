import { Agent, type IncomingMessage, request as httpRequest } from "node:http";
import type { Activity, Agents, OperationAnswer, Json, JsonObject, Kernel, RunPolicy, Submitted, WholeOutputs } from "./protocol";
import { type SseEvent, SseParser } from "./sse";

/** The server refused: `code` says what, `hint` what to do. */
export class Refused extends Error {
  override readonly name = "Refused";
  constructor(
    readonly status: number,
    readonly code: string,
    message: string,
    readonly hint: string | null,
  ) {
    super(hint === null || hint === "" ? message : `${message} ${hint}`);
  }
}

/** Nobody answered: the server has ended, or hangs. */
export class Unreachable extends Error {
  override readonly name = "Unreachable";
}

export interface CallOptions {
  readonly signal?: AbortSignal | undefined;
  /** Milliseconds to wait for the answer; 0 for ever. */
  readonly timeout?: number;
}

const TIMEOUT = 30_000;
/** The server says something every 15 s. */
const SILENCE = 40_000;

/** One server, by HTTP. */
export class Client {
  private readonly agent = new Agent({ keepAlive: true, maxSockets: 16 });
  private readonly base: URL;

  constructor(
    url: string,
    private readonly token: string | null,
  ) {
    this.base = new URL("/", url);
  }

  dispose(): void {
    this.agent.destroy();
  }

  async get<T>(path: string, options?: CallOptions): Promise<T> {
    return (await this.call("GET", path, undefined, options)) as T;
  }

  async post<T>(path: string, body: unknown, options?: CallOptions): Promise<T> {
    return (await this.call("POST", path, body, options)) as T;
  }

  async put<T>(path: string, body: unknown, options?: CallOptions): Promise<T> {
    return (await this.call("PUT", path, body, options)) as T;
  }

  async operation(name: string, args: JsonObject, options?: CallOptions): Promise<OperationAnswer> {
    return await this.post<OperationAnswer>(`/api/operations/${name}`, args, options);
  }

  /** An operation that has no text of its own to show: an answer that is an error is thrown. */
  async perform(name: string, args: JsonObject, options?: CallOptions): Promise<OperationAnswer> {
    const answer = await this.operation(name, args, options);
    if (answer.is_error) throw new Refused(200, "refused", answer.text, null);
    return answer;
  }

  /** Without waiting for a kernel that starts: that is refused as `kernel_starting`, and nothing runs. */
  async execute(body: { notebook_path?: string; kernel_id?: string; cells: { cell_id: string; source: string }[]; stop_on_error: boolean }): Promise<Submitted> {
    return await this.post<Submitted>("/api/executions", { ...body, wait_seconds: 0 }, { timeout: 120_000 });
  }

  async outputs(executionId: string): Promise<WholeOutputs> {
    return await this.get<WholeOutputs>(`/api/executions/${encodeURIComponent(executionId)}/outputs`);
  }

  async bind(notebook: string, kernelId: string | null): Promise<Kernel> {
    return await this.put<Kernel>(`/api/notebooks/${notebook.split("/").map(encodeURIComponent).join("/")}/kernel`, { kernel_id: kernelId });
  }

  async activity(notebook: string | undefined, limit: number): Promise<Activity[]> {
    const query = new URLSearchParams({ limit: String(limit), ...(notebook === undefined ? {} : { notebook_path: notebook }) });
    return (await this.get<{ activity: Activity[] }>(`/api/activity?${query.toString()}`)).activity;
  }

  async setAgents(change: { paused?: boolean; run?: RunPolicy | null; notebook_path?: string }): Promise<Agents> {
    return await this.put<Agents>("/api/agents", change);
  }

  async decide(executionId: string, decision: "approve" | "deny", scope: "once" | "turn" | "notebook"): Promise<void> {
    await this.post(`/api/approvals/${encodeURIComponent(executionId)}`, { decision, for: scope });
  }

  /**
   * The events of a route, until the stream ends.
   *
   * @throws Refused, or Unreachable when it was cut off or has been silent for too long.
   */
  async *events(path: string, lastId: string | undefined, signal: AbortSignal, onOpen?: () => void): AsyncGenerator<SseEvent> {
    const headers = { accept: "text/event-stream", ...(lastId === undefined ? {} : { "last-event-id": lastId }) };
    const response = await this.send("GET", path, undefined, headers, { signal, timeout: TIMEOUT }, new Agent());
    if (response.statusCode !== 200) throw refusal(response.statusCode ?? 0, await text(response));
    onOpen?.();
    const parser = new SseParser();
    response.setEncoding("utf8");
    response.socket.setTimeout(SILENCE, () => response.destroy(new Error("silent for too long")));
    try {
      for await (const piece of response) yield* parser.push(piece as string);
    } catch (error) {
      signal.throwIfAborted();
      throw new Unreachable(`The server's stream ended: ${message(error)}`, { cause: error });
    } finally {
      response.destroy();
    }
  }

  private async call(method: string, path: string, body: unknown, options: CallOptions = {}): Promise<Json> {
    const payload = body === undefined ? undefined : JSON.stringify(body);
    const headers = payload === undefined ? {} : { "content-type": "application/json", "content-length": String(Buffer.byteLength(payload)) };
    const response = await this.send(method, path, payload, headers, options, this.agent);
    const answer = await text(response);
    if (response.statusCode === undefined || response.statusCode >= 400) throw refusal(response.statusCode ?? 0, answer);
    return answer === "" ? null : (JSON.parse(answer) as Json);
  }

  private async send(
    method: string, path: string, body: string | undefined, headers: Record<string, string>, options: CallOptions, agent: Agent,
  ): Promise<IncomingMessage> {
    const { signal, timeout = TIMEOUT } = options;
    signal?.throwIfAborted();
    const authorized = this.token === null ? headers : { ...headers, authorization: `Bearer ${this.token}` };
    return await new Promise<IncomingMessage>((resolve, reject) => {
      const sent = httpRequest(new URL(path, this.base), { method, headers: authorized, agent, ...(signal === undefined ? {} : { signal }) });
      const timer = timeout > 0 ? setTimeout(() => sent.destroy(new Error(`no answer in ${String(timeout / 1000)} s`)), timeout) : undefined;
      sent.on("response", (response) => {
        clearTimeout(timer);
        resolve(response);
      });
      sent.on("error", (error) => {
        clearTimeout(timer);
        if (signal?.aborted === true) reject(signal.reason as Error);
        else reject(new Unreachable(`The server does not answer: ${message(error)}`, { cause: error }));
      });
      sent.end(body);
    });
  }
}

async function text(response: IncomingMessage): Promise<string> {
  const pieces: Buffer[] = [];
  try {
    for await (const piece of response) pieces.push(piece as Buffer);
  } catch (error) {
    throw new Unreachable(`The server's answer was cut off: ${message(error)}`, { cause: error });
  }
  return Buffer.concat(pieces).toString("utf8");
}

function refusal(status: number, body: string): Refused {
  try {
    const { error, message: words, hint } = JSON.parse(body) as { error?: string; message?: string; hint?: string | null };
    return new Refused(status, error ?? "error", words ?? `The server answered ${String(status)}.`, hint ?? null);
  } catch {
    return new Refused(status, "error", `The server answered ${String(status)}.`, null);
  }
}

function message(error: unknown): string {
  return error instanceof Error ? error.message : String(error);
}
