/** An agent: an MCP client on stdio, by the launcher that the extension names in clients' configurations. */
import { spawn, type ChildProcessWithoutNullStreams } from "node:child_process";
import path from "node:path";
import { createInterface } from "node:readline";
import type { Editor } from "./editor.ts";

interface Answer {
  content: { type: string; text?: string }[];
  structuredContent?: Record<string, unknown>;
  isError?: boolean;
}

interface Waiting {
  resolve: (answer: Answer) => void;
  reject: (error: Error) => void;
}

export interface Told {
  text: string;
  isError: boolean;
}

export class Agent implements Disposable {
  readonly #process: ChildProcessWithoutNullStreams;
  readonly #waiting = new Map<number, Waiting>();
  #last = 0;

  private constructor(child: ChildProcessWithoutNullStreams) {
    this.#process = child;
    let said = "";
    child.stderr.setEncoding("utf8").on("data", (text: string) => (said += text));
    createInterface({ input: child.stdout }).on("line", (line) => this.#receive(line));
    child.once("exit", () => {
      for (const { reject } of this.#waiting.values()) reject(new Error(`The agent's server process has ended: ${said}`));
    });
  }

  static async start(editor: Editor, folder: string, name = "agent"): Promise<Agent> {
    const program = path.join(editor.storage, "bin/mcp-server-jupyter");
    const agent = new Agent(spawn(program, ["--root", folder], { cwd: folder, env: editor.environment }));
    const clientInfo = { name, version: "1" };
    await agent.#request("initialize", { protocolVersion: "2025-06-18", capabilities: {}, clientInfo });
    agent.#send({ method: "notifications/initialized" });
    return agent;
  }

  /** Call a tool; the text it answers. */
  async call(tool: string, args: Record<string, unknown> = {}): Promise<Told> {
    const { content, isError = false } = await this.#request("tools/call", { name: tool, arguments: args });
    return { text: content.map(({ text }) => text ?? "").join("\n"), isError };
  }

  /** Leave, as a client that is closed does. */
  [Symbol.dispose](): void {
    this.#process.stdin.end();
    this.#process.kill();
  }

  #request(method: string, params: unknown): Promise<Answer> {
    const id = ++this.#last;
    const answer = new Promise<Answer>((resolve, reject) => {
      const timer = setTimeout(() => reject(new Error(`${method} was not answered within 90 s.`)), 90_000);
      timer.unref();
      this.#waiting.set(id, { resolve, reject });
    });
    this.#send({ id, method, params });
    return answer;
  }

  #send(message: object): void {
    this.#process.stdin.write(`${JSON.stringify({ jsonrpc: "2.0", ...message })}\n`);
  }

  #receive(line: string): void {
    const message = JSON.parse(line) as { id?: number; method?: string; result?: Answer; error?: { message: string } };
    const waiting = message.method === undefined && message.id !== undefined ? this.#waiting.get(message.id) : undefined;
    if (!waiting || message.id === undefined) return;
    this.#waiting.delete(message.id);
    if (message.result) waiting.resolve(message.result);
    else waiting.reject(new Error(message.error?.message ?? line));
  }
}
