/** One real VS Code server with the packaged extension in it, in a home of its own; windows of it are browser pages. */
import { execFileSync, spawn, type ChildProcess } from "node:child_process";
import { closeSync, existsSync, mkdirSync, mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import path from "node:path";
import { chromium, type Browser } from "playwright-core";
import { setUpBrowser, setUpEditor, type Program } from "../setup.ts";
import { python } from "./places.ts";
import { kill, Processes } from "./processes.ts";
import { until } from "./wait.ts";
import { Window } from "./window.ts";

export interface Options {
  /** The packaged extension; null for none. */
  vsix: string | null;
  settings?: Record<string, unknown>;
  environment?: Record<string, string>;
}

/** Every address but this machine's leads nowhere. */
export const offline: Record<string, string> = {
  ...Object.fromEntries(["http_proxy", "https_proxy", "all_proxy"].flatMap((name) => [name, name.toUpperCase()]).map((name) => [name, "http://127.0.0.1:9"])),
  no_proxy: "127.0.0.1,localhost",
  NO_PROXY: "127.0.0.1,localhost",
  PIP_INDEX_URL: "http://127.0.0.1:9/simple",
  PIP_EXTRA_INDEX_URL: "",
  PIP_FIND_LINKS: "",
};

const SETTINGS = {
  "remote.autoForwardPorts": false,
  "security.workspace.trust.enabled": false,
  "telemetry.telemetryLevel": "off",
  "workbench.startupEditor": "none",
  "workbench.tips.enabled": false,
  "window.commandCenter": false,
  "chat.commandCenter.enabled": false,
  "chat.disableAIFeatures": true,
  "workbench.secondarySideBar.defaultVisibility": "hidden",
  "notebook.output.scrolling": true,
  "files.autoSave": "off",
  "extensions.ignoreRecommendations": true,
  "git.enabled": false,
};

export class Editor implements AsyncDisposable {
  readonly home: string;
  readonly processes: Processes;
  readonly windows: Window[] = [];
  #program: Program;
  #browser: Browser | null = null;
  #server: ChildProcess | null = null;
  #port = 0;
  #environment: Record<string, string>;

  private constructor(options: Options) {
    this.#program = setUpEditor();
    // Sockets have short names: a folder deep below TMPDIR would be too long for them.
    this.home = mkdtempSync(path.join(tmpdir(), "nbe-"));
    this.processes = new Processes(path.basename(this.home));
    for (const name of ["home", "work", "extensions", "data/data/User", "data/data/Machine", "run"]) {
      mkdirSync(path.join(this.home, name), { recursive: true, mode: 0o700 });
    }
    this.#environment = { ...outer(), ...this.#own(), ...this.processes.environment, ...options.environment };
    this.configure(options.settings ?? {});
  }

  static async start(options: Options): Promise<Editor> {
    const editor = new Editor(options);
    try {
      if (options.vsix) editor.install(options.vsix);
      await editor.startServer();
    } catch (error) {
      await editor[Symbol.asyncDispose]();
      throw error;
    }
    return editor;
  }

  /** Write the user's settings; those named in `settings` on top of the tests' own. */
  configure(settings: Record<string, unknown>): void {
    const all = { ...SETTINGS, "mcp-server-jupyter.python.path": python, ...settings };
    // Settings of machine scope count in the remote's file only.
    for (const kind of ["User", "Machine"]) {
      writeFileSync(path.join(this.home, `data/data/${kind}/settings.json`), JSON.stringify(all));
    }
  }

  /** Install a packaged extension, over an older one too. */
  install(vsix: string): void {
    const args = [this.#program.script, ...this.#folders(), "--accept-server-license-terms", "--install-extension", vsix, "--force"];
    execFileSync(this.#program.node, args, { env: this.#environment, stdio: ["ignore", "pipe", "pipe"] });
  }

  async startServer(): Promise<void> {
    this.#port = await freePort();
    const log = openSync(path.join(this.home, "server.log"), "a");
    const where = ["--host", "127.0.0.1", "--port", String(this.#port), "--without-connection-token"];
    const quiet = ["--accept-server-license-terms", "--telemetry-level", "off", "--disable-telemetry"];
    this.#server = spawn(this.#program.node, [this.#program.script, ...where, ...quiet, ...this.#folders()], {
      env: this.#environment,
      stdio: ["ignore", log, log],
    });
    closeSync(log);
    const version = `http://127.0.0.1:${this.#port}/version`;
    await until("VS Code's server answers", async () => (await fetch(version)).ok);
  }

  /** A folder of the user's, made if need be. */
  folder(name: string): string {
    const folder = path.join(this.home, "work", name);
    mkdirSync(folder, { recursive: true });
    return folder;
  }

  /** Open a window on a folder, with a notebook of it if one is named. */
  async open(folder: string, notebook?: string): Promise<Window> {
    this.#browser ??= await chromium.launch({
      executablePath: setUpBrowser(),
      headless: true,
      args: ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"],
    });
    const window = await Window.open(this.#browser, this.#port, folder, notebook);
    this.windows.push(window);
    return window;
  }

  /** Kill the process in which the extension runs: of the only window, or of the one opened last. */
  killExtensionHost(): void {
    const hosts = this.processes.find("--type=extensionHost").sort((a, b) => a.pid - b.pid);
    const last = hosts.at(-1);
    if (!last) throw new Error("No extension host runs.");
    kill(last.pid);
  }

  /** Lines of the extension's own log, of all windows and starts. */
  extensionLog(): string {
    const logs = this.#find(path.join(this.home, "data/data/logs"), /jupyter.*\.log$/i);
    return logs.map((file) => readFileSync(file, "utf8")).join("\n");
  }

  /** The extension's own storage, of all windows. */
  get storage(): string {
    return path.join(this.home, "data/data/User/globalStorage/mcp-server-jupyter.mcp-server-jupyter");
  }

  /** The environment that programs of this user's see. */
  get environment(): Record<string, string> {
    return this.#environment;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#lookBack();
    await this.#browser?.close();
    this.#server?.kill("SIGKILL");
    await this.processes.end();
    if (!process.env["KEEP"]) rmSync(this.home, { recursive: true, force: true, maxRetries: 3 });
  }

  /** What the windows show at the end, for whoever has to find out why a test failed. */
  async #lookBack(): Promise<void> {
    for (const [index, window] of this.windows.entries()) {
      await window.picture(`end-${path.basename(this.home)}-${index}`).catch(() => undefined);
    }
  }

  #folders(): string[] {
    return ["--server-data-dir", path.join(this.home, "data"), "--extensions-dir", path.join(this.home, "extensions")];
  }

  #own(): Record<string, string> {
    const home = path.join(this.home, "home");
    return {
      HOME: home,
      XDG_STATE_HOME: path.join(home, ".local/state"),
      XDG_CACHE_HOME: path.join(home, ".cache"),
      XDG_CONFIG_HOME: path.join(home, ".config"),
      XDG_DATA_HOME: path.join(home, ".local/share"),
      XDG_RUNTIME_DIR: path.join(this.home, "run"),
    };
  }

  #find(folder: string, name: RegExp): string[] {
    if (!existsSync(folder)) return [];
    return execFileSync("find", [folder, "-type", "f"], { encoding: "utf8" }).split("\n").filter((file) => name.test(file));
  }
}

/** This process's environment, without what would lead the tests' programs out of their home. */
function outer(): Record<string, string> {
  const unwanted = /^(VSCODE_|ELECTRON_|NODE_|npm_|XDG_|MCP_|JUPYTER|VIRTUAL_ENV|PYTHON)/;
  const entries = Object.entries(process.env).filter(([name, value]) => value !== undefined && !unwanted.test(name));
  return Object.fromEntries(entries) as Record<string, string>;
}

function freePort(): Promise<number> {
  return new Promise((resolve, reject) => {
    const server = createServer().once("error", reject);
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      server.close(() => (address && typeof address === "object" ? resolve(address.port) : reject(new Error("no port"))));
    });
  });
}
