/** Every command that the palette has, each with what a person sees of it. */
import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { Agent } from "./support/agent.ts";
import { writeNotebook } from "./support/notebooks.ts";
import { extensionFolder, version } from "./support/places.ts";
import { begin, sharedEditor } from "./support/shared.ts";
import { until } from "./support/wait.ts";
import type { Window } from "./support/window.ts";

interface Manifest {
  contributes: { commands: { command: string; title: string }[]; menus: { commandPalette: { command: string; when: string }[] } };
}

const tried = new Set<string>();

/** Those that the tests of what agents may do try. */
const elsewhere = ["Choose What Agents May Run"];

/** Do a command of ours by the palette. */
async function command(window: Window, title: string): Promise<void> {
  await window.command(`Jupyter with Agents: ${title}`);
  tried.add(title);
}

/** Every file below a folder. */
function filesIn(folder: string): string[] {
  return readdirSync(folder, { recursive: true, withFileTypes: true }).filter((one) => one.isFile()).map((one) => path.join(one.parentPath, one.name));
}

async function hasSucceeded(window: Window, index: number): Promise<void> {
  await until(`cell ${index} is done`, async () => (await window.cell(index).locator(".codicon-notebook-state-success").count()) > 0);
}

test("a repaired server is set up anew, and the next cell runs", async () => {
  const editor = await sharedEditor();
  const { window } = await begin(editor, ["print('works', 'again')"]);
  await window.connected();
  const made = (): string | undefined => filesIn(path.join(editor.storage, "server")).find((file) => path.basename(file) === "installed.json");
  const before = readFileSync(made() ?? "", "utf8");
  await command(window, "Set Up / Repair");
  await window.toast("The server is set up", 90);
  assert.notEqual(readFileSync(made() ?? "", "utf8"), before);
  await window.run(0);
  await window.shows("works again");
  await window.close();
});

test("a notebook that nobody shares is shared on demand", async () => {
  const editor = await sharedEditor();
  const folder = editor.folder("share");
  mkdirSync(path.join(folder, ".vscode"));
  writeFileSync(path.join(folder, ".vscode/settings.json"), JSON.stringify({ "mcp-server-jupyter.share.onOpen": "never" }));
  writeNotebook(path.join(folder, "a.ipynb"), ["print('shared', 'now')"]);
  const window = await editor.open(folder, "a.ipynb");
  await until("the extension is there", async () => (await window.status()) !== "", { seconds: 60 });
  assert.deepEqual(editor.processes.find("mcp_server_jupyter", folder), []);
  await command(window, "Share This Notebook");
  await window.connected();
  using agent = await Agent.start(editor, folder);
  await agent.call("execute_cell", { notebook_path: "a.ipynb", cell_index: 0 });
  await window.shows("shared now");
  await window.close();
});

test("a kernel is interrupted, restarted, restarted with all cells, attached to and stopped", async () => {
  const editor = await sharedEditor();
  const { folder, window } = await begin(editor, ["x = 1\nprint('x', 'is', x)", "print('y:', 'y' in globals())\ny = 1", "import time\nfor _ in range(6000):\n    time.sleep(0.1)"]);
  await window.connected();
  await window.run(0);
  await hasSucceeded(window, 0);
  await window.run(1);
  await window.shows("y: False");
  await window.run(1);
  await window.shows("y: True");
  await window.run(2);
  await until("the kernel is busy", async () => /busy/.test(await window.status()));
  await command(window, "Interrupt Kernel");
  await window.shows("KeyboardInterrupt");
  await command(window, "Restart Kernel");
  await until("the cells are told to be of an earlier kernel", async () => (await window.cell(0).innerText()).includes("earlier kernel"));
  await window.run(1);
  await window.shows("y: False");
  await window.run(1);
  await window.shows("y: True");
  await window.deleteCell(2);
  await command(window, "Restart Kernel and Run All");
  await window.shows("y: False");
  await window.shows("x is 1");
  await window.picture("restarted");
  await window.save();
  writeNotebook(path.join(folder, "b.ipynb"), ["print('found', x + 41)"]);
  const other = await editor.open(folder, "b.ipynb");
  await other.connected();
  await command(other, "Attach to Running Kernel");
  await other.pick(/a\.ipynb/);
  await until("the notebook has the kernel", async () => /idle/.test(await other.status()));
  await other.run(0);
  await other.shows("found 42");
  await other.close();
  await command(window, "Stop Kernel");
  await until("the kernel is gone", async () => (await window.status()).includes("no kernel"));
  await window.close();
});

test("an agent's turn is listed, undone whole and beside what a person did; paused, it changes nothing", async () => {
  const editor = await sharedEditor();
  const { folder, window } = await begin(editor, ["mine = 1", "theirs = 2"]);
  await window.connected();
  using agent = await Agent.start(editor, folder);
  await agent.call("overwrite_cell_source", { notebook_path: "a.ipynb", cell_index: 1, cell_source: "theirs = 'changed'" });
  await agent.call("append_execute_code_cell", { notebook_path: "a.ipynb", cell_source: "print('from', 'the agent')" });
  await window.shows("from the agent");
  await window.type(0, "00");
  await command(window, "Show Agent Activity");
  const rows = window.page.locator(".pane-body .monaco-list-row");
  await rows.filter({ hasText: "agent: print('from', 'the agent')" }).first().waitFor();
  await rows.filter({ hasText: "agent: 2 edits" }).first().waitFor();
  await window.picture("activity");
  await window.cell(0).locator(".monaco-editor .view-lines").first().click();
  await command(window, "Undo Last Agent Change");
  await until("both of the agent's edits are gone", async () => (await window.cells().count()) === 2 && (await window.source(1)) === "theirs = 2");
  assert.equal(await window.source(0), "mine = 100");
  await rows.filter({ hasText: "2 edits (undone)" }).first().waitFor();
  await command(window, "Pause or Resume Agents");
  await window.toast("Agents are paused");
  const edit = { notebook_path: "a.ipynb", cell_index: 1, cell_source: "theirs = 3" };
  assert.match((await agent.call("overwrite_cell_source", edit)).text, /pause/i);
  await command(window, "Pause or Resume Agents");
  await window.toast("Agents may go on");
  assert.equal((await agent.call("overwrite_cell_source", edit)).isError, false);
  await window.close();
});

test("variables are shown; cells that are out of date are marked, and run again", async () => {
  const editor = await sharedEditor();
  const { window } = await begin(editor, ["answer = 41", "print('the answer is', answer)"]);
  await window.connected();
  await command(window, "Run Cells That Are Out of Date");
  await window.toast("No cell is out of date");
  for (const index of [0, 1]) {
    await window.run(index);
    await hasSucceeded(window, index);
  }
  await command(window, "Show Variables");
  const variable = (text: RegExp) => window.page.locator('.pane-body .monaco-list-row[aria-level="2"]').filter({ hasText: text }).first();
  await variable(/^answer.*41/).waitFor();
  await window.picture("variables");
  await window.type(1, "\nprint('and it is', 'new')");
  await until("the cell is marked", async () => (await window.cell(1).innerText()).includes("edited since it ran"));
  await window.picture("out-of-date");
  await command(window, "Run Cells That Are Out of Date");
  await window.shows("and it is new");
  await until("the mark is gone", async () => !(await window.cell(1).innerText()).includes("edited since it ran"));
  await window.close();
});

test("the diagnostics tell what helps and no secret, and the log is shown", async () => {
  const editor = await sharedEditor();
  const { folder, window } = await begin(editor, ["print('ran')"]);
  await window.connected();
  await window.run(0);
  await window.shows("ran");
  const tokens = filesIn(path.join(editor.environment["XDG_STATE_HOME"] ?? "", "mcp-server-jupyter"))
    .filter((file) => path.basename(file) === "token")
    .map((file) => readFileSync(file, "utf8").trim());
  assert.ok(tokens.length > 0 && tokens.every((token) => token.length > 20), "the server has a token");
  await command(window, "Show Diagnostics");
  await window.page.locator(".editor-instance .view-line").filter({ hasText: "# Jupyter with Agents: diagnostics" }).waitFor({ timeout: 60_000 });
  await window.picture("diagnostics");
  const text = await window.copyAll();
  assert.ok(text.includes(`extension ${version}`) && text.includes("[folder 1]: version"), text);
  for (const secret of [...tokens, folder, editor.environment["HOME"] ?? "", editor.storage, "a.ipynb"]) assert.ok(!text.includes(secret), `told: ${secret}`);
  await command(window, "Show Log");
  await window.page.locator(".part.panel .view-line").filter({ hasText: `server ${version}` }).first().waitFor();
  await window.close();
});

test("a client's configuration is copied, and what it names starts", async () => {
  const editor = await sharedEditor();
  const { folder, window } = await begin(editor, ["1"]);
  await window.connected();
  await command(window, "Copy MCP Config for…");
  await window.picture("clients");
  await window.pick("Claude Code");
  await window.toast("Copied. It goes into");
  const text = await window.page.evaluate(() => navigator.clipboard.readText());
  const { mcpServers } = JSON.parse(text) as { mcpServers: Record<string, { command: string; args: string[] }> };
  const [server] = Object.values(mcpServers);
  assert.ok(server && existsSync(server.command), text);
  assert.deepEqual(server.args.slice(server.args.indexOf("--root")).slice(0, 2), ["--root", folder]);
  assert.match(execFileSync(server.command, ["--version"], { encoding: "utf8", env: editor.environment }), new RegExp(version));
  await window.close();
});

test("the walkthrough opens at once, in a window that has shown none yet", async () => {
  const editor = await sharedEditor();
  const { window } = await begin(editor, ["1"]);
  await window.connected();
  await command(window, "Open Walkthrough");
  await window.page.locator(".gettingStartedContainer").getByText("Notebooks that you share with agents").first().waitFor();
  const step = window.page.locator(".gettingStartedContainer .getting-started-step.expanded").filter({ hasText: "Set it up" });
  await step.first().waitFor();
  await window.picture("walkthrough");
  await window.close();
});

test("every command that the palette has was tried", () => {
  const read = (name: string): unknown => JSON.parse(readFileSync(path.join(extensionFolder, name), "utf8"));
  const { contributes } = read("package.json") as Manifest;
  const texts = read("package.nls.json") as Record<string, string>;
  const hidden = new Set(contributes.menus.commandPalette.filter(({ when }) => when === "false").map(({ command: name }) => name));
  const titles = contributes.commands.filter(({ command: name }) => !hidden.has(name)).map(({ title }) => texts[title.slice(1, -1)] ?? title);
  assert.deepEqual([...new Set(titles)].sort(), [...tried, ...elsewhere].sort());
});
