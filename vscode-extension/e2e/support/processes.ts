/** The processes that a test has started, however far away: all of them inherit one variable with a name of its own. */
import { readdirSync, readFileSync } from "node:fs";
import { until } from "./wait.ts";

const MARK = "NOTEBOOK_E2E_RUN";

export interface Process {
  pid: number;
  parent: number;
  command: string[];
}

export class Processes {
  readonly id: string;

  constructor(id: string) {
    this.id = id;
  }

  get environment(): Record<string, string> {
    return { [MARK]: this.id };
  }

  list(): Process[] {
    return readdirSync("/proc")
      .filter((name) => /^\d+$/.test(name))
      .map((name) => this.#read(Number(name)))
      .filter((found) => found !== null);
  }

  /** Those whose command line has all of these parts. */
  find(...parts: string[]): Process[] {
    return this.list().filter(({ command }) => parts.every((part) => command.join(" ").includes(part)));
  }

  /** End everything that is left, at once. */
  async end(): Promise<void> {
    await until(
      "every process of the test has ended",
      () => {
        const left = this.list();
        for (const { pid } of left) kill(pid);
        return left.length === 0;
      },
    );
  }

  #read(pid: number): Process | null {
    try {
      const environment = readFileSync(`/proc/${pid}/environ`, "utf8").split("\0");
      if (!environment.includes(`${MARK}=${this.id}`)) return null;
      const stat = readFileSync(`/proc/${pid}/stat`, "utf8");
      const parent = Number(stat.slice(stat.lastIndexOf(")") + 2).split(" ")[1]);
      const command = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0").filter(Boolean);
      return command.length > 0 ? { pid, parent, command } : null; // one that has ended has none
    } catch {
      return null; // it has ended meanwhile, or is another user's
    }
  }
}

export function kill(pid: number): void {
  try {
    process.kill(pid, "SIGKILL");
  } catch {
    // It has ended meanwhile.
  }
}
