/** What a set-up tells when it cannot be done: a sentence and a button, and nothing tried again by itself. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, writeFileSync } from "node:fs";
import { createServer, type Server, type Socket } from "node:net";
import path from "node:path";
import { test } from "node:test";
import { Editor, offline } from "./support/editor.ts";
import { writeNotebook } from "./support/notebooks.ts";
import { findVsix } from "./support/places.ts";
import { until } from "./support/wait.ts";

const SET_UP = "Jupyter with Agents: Set Up / Repair";

/** A package index that hangs up on whoever calls, or, once `isSlow`, answers nothing. */
class DeadIndex implements AsyncDisposable {
  isSlow = false;
  calls = 0;
  readonly #sockets = new Set<Socket>();
  readonly #server: Server;
  private constructor(server: Server) {
    this.#server = server;
  }

  static async start(): Promise<DeadIndex> {
    const server = createServer();
    const index = new DeadIndex(server);
    server.on("connection", (socket) => {
      index.calls += 1;
      socket.on("error", () => undefined);
      if (index.isSlow) index.#sockets.add(socket);
      else socket.destroy();
    });
    await new Promise<void>((resolve) => server.listen(0, "127.0.0.1", resolve));
    return index;
  }

  get url(): string {
    const address = this.#server.address();
    return `http://127.0.0.1:${address && typeof address === "object" ? address.port : 0}/simple`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }
}

test("a set-up that cannot be done says why, offers a button, leaves nothing, and is not tried again by itself", async (context) => {
  await using index = await DeadIndex.start();
  await using editor = await Editor.start({ vsix: findVsix("universal"), environment: { ...offline, PIP_INDEX_URL: index.url } });
  const folder = editor.folder("set-up");
  writeNotebook(path.join(folder, "a.ipynb"), ["print('never')"]);
  const environments = (): string[] => (existsSync(path.join(editor.storage, "server")) ? readdirSync(path.join(editor.storage, "server")) : []);
  const told = async (text: RegExp, button: string, name: string): Promise<void> => {
    const toast = await window.toast(text, 90);
    await toast.getByRole("button", { name: button }).first().waitFor();
    await window.picture(`set-up-${name}`);
    await window.clearToasts();
  };

  /** Set up with these settings, again until the editor has read them. */
  const setUp = async (settings: Record<string, unknown>, text: RegExp, button: string, name: string): Promise<void> => {
    editor.configure(settings);
    await until(
      `the set-up tells ${String(text)}`,
      async () => {
        await window.command(SET_UP);
        return window.toast(text, 15);
      },
      { seconds: 120 },
    );
    if (button !== "") await told(text, button, name);
  };

  const window = await editor.open(folder, "a.ipynb");
  await window.run(0);
  await told(/The package index did not give what the server needs/, "Set Up / Repair", "dead-index");
  assert.deepEqual(environments(), []);
  const { calls } = index;
  assert.ok(calls > 0, "the index was asked");
  await window.reload();
  await until("the extension is there", async () => (await window.status()) !== "", { seconds: 60 });
  assert.equal(index.calls, calls, "the index is not asked again");

  await context.test("no Python, or one that is too old", async () => {
    const none = { "mcp-server-jupyter.python.path": "/no/such/python" };
    await setUp(none, /The Python in the setting python\.path cannot be used: \/no\/such\/python/, "Choose Python", "no-python");
    const old = path.join(editor.home, "python3.9");
    writeFileSync(old, `#!/bin/sh\necho '["${old}", [3, 9, 1], "cpython", true, true]'\n`, { mode: 0o755 });
    await setUp({ "mcp-server-jupyter.python.path": old }, /python3\.9.*needs Python 3\.11 or newer/, "Choose Python", "old-python");
  });

  await context.test("a repository's settings choose neither the Python nor where packages come from", async () => {
    const ran = path.join(editor.home, "ran");
    const evil = path.join(folder, "python3");
    writeFileSync(evil, `#!/bin/sh\ntouch '${ran}'\n`, { mode: 0o755 });
    mkdirSync(path.join(folder, ".vscode"));
    writeFileSync(
      path.join(folder, ".vscode/settings.json"),
      JSON.stringify({ "mcp-server-jupyter.python.path": evil, "mcp-server-jupyter.install.source": "index", "mcp-server-jupyter.agents.run": "allow" }),
    );
    const own = { "mcp-server-jupyter.install.source": "bundled", "mcp-server-jupyter.agents.run": "deny" };
    await setUp(own, /has no wheels for the Python found .* install\.source forbids an index/, "Open Settings", "forbidden");
    assert.equal(existsSync(ran), false);
    await window.command("Jupyter with Agents: Choose What Agents May Run");
    await window.page.locator(".quick-input-widget:visible input[placeholder='Now: deny']").waitFor();
    await window.page.keyboard.press("Escape");
  });

  await context.test("cancelled in the middle", async () => {
    index.isSlow = true;
    await setUp({}, /setting up: installing the server/, "", "");
    const progress = await window.toast(/setting up: installing the server/);
    await window.picture("set-up-progress");
    assert.equal(environments().filter((name) => name.startsWith(".new-")).length, 1);
    await progress.hover();
    await progress.getByRole("button", { name: "Cancel" }).first().click();
    await until("nothing of it is left", () => environments().length === 0 && editor.processes.find("pip").length === 0);
    await window.cell(0).waitFor();
  });

  await context.test("a full disk", async (full) => {
    const place = path.join(editor.storage, "server");
    try {
      execFileSync("mount", ["-t", "tmpfs", "-o", "size=4m", "tmpfs", place], { stdio: "pipe" });
    } catch {
      full.skip("only who may mount can have a small disk");
      return;
    }
    try {
      index.isSlow = false;
      await setUp({}, /The disk is full: the server needs 120 MB/, "Set Up / Repair", "full-disk");
      assert.deepEqual(environments(), []);
    } finally {
      execFileSync("umount", ["--lazy", place]);
    }
  });
});
