import * as vscode from "vscode";

/** The extension's own log: *Show Log* opens it. Never holds a token, or a cell's source. */
export class Log implements vscode.Disposable {
  private readonly channel = vscode.window.createOutputChannel("Jupyter with Agents", { log: true });
  private readonly recent: string[] = [];

  info(text: string): void {
    this.keep(text);
    this.channel.info(text);
  }

  warn(text: string): void {
    this.keep(text);
    this.channel.warn(text);
  }

  error(text: string, error: unknown): void {
    const words = error instanceof Error ? (error.stack ?? error.message) : String(error);
    this.keep(`${text}: ${words}`);
    this.channel.error(`${text}: ${words}`);
  }

  show(): void {
    this.channel.show(true);
  }

  /** The last lines, for the diagnostics. */
  tail(): readonly string[] {
    return this.recent;
  }

  dispose(): void {
    this.channel.dispose();
  }

  private keep(text: string): void {
    this.recent.push(`${new Date().toISOString()} ${text}`);
    if (this.recent.length > 100) this.recent.shift();
  }
}
