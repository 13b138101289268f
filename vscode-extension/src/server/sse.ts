/** One server-sent event (WHATWG HTML, "Server-sent events"). */
export interface SseEvent {
  readonly id: string | undefined;
  readonly event: string;
  readonly data: string;
}

/** Takes a stream apart, however it is cut into pieces. */
export class SseParser {
  private rest = "";
  private data: string[] = [];
  private event = "";
  private lastId: string | undefined;
  /** Milliseconds before a reconnection, as the server wishes. */
  retry = 1_000;

  push(text: string): SseEvent[] {
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop() ?? "";
    const events: SseEvent[] = [];
    for (const line of lines) {
      const event = this.line(line.endsWith("\r") ? line.slice(0, -1) : line);
      if (event !== undefined) events.push(event);
    }
    return events;
  }

  private line(line: string): SseEvent | undefined {
    if (line === "") return this.dispatch();
    const colon = line.indexOf(":");
    if (colon === 0) return undefined;
    const field = colon < 0 ? line : line.slice(0, colon);
    const value = colon < 0 ? "" : line.slice(colon + 1).replace(/^ /, "");
    if (field === "data") this.data.push(value);
    else if (field === "event") this.event = value;
    else if (field === "id" && !value.includes("\0")) this.lastId = value;
    else if (field === "retry" && /^\d+$/.test(value)) this.retry = Number(value);
    return undefined;
  }

  private dispatch(): SseEvent | undefined {
    const { data, event } = this;
    this.data = [];
    this.event = "";
    return data.length === 0 ? undefined : { id: this.lastId, event: event === "" ? "message" : event, data: data.join("\n") };
  }
}
