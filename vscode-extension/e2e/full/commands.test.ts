/** Every command of the palette, one after the other, in one notebook. */
import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import path from "node:path";
import { test } from "node:test";
import { Agent } from "../support/agent.ts";
import { extensionFolder, version } from "../support/places.ts";
import { begin, sharedEditor } from "../support/shared.ts";
import { until } from "../support/wait.ts";
import type { Window } from "../support/window.ts";

interface Manifest {
  contributes: { commands: { command: string; title: string }[]; menus: { commandPalette: { command: string; when: string }[] } };
}

const read = (name: string): unknown => JSON.parse(readFileSync(path.join(extensionFolder, name), "utf8"));
const { contributes } = read("package.json") as Manifest;
const texts = read("package.nls.json") as Record<string, string>;
const hidden = new Set(contributes.menus.commandPalette.filter(({ when }) => when === "false").map(({ command }) => command));

/** What a person sees of each command; those that another test of this suite tries are named there. */
const tried: Record<string, (window: Window) => Promise<void>> = {
  "Share This Notebook": (window) => window.connected(),
  "Restart Kernel": async (window) => {
    await window.run(1);
    await window.shows("NameError");
  },
  "Restart Kernel and Run All": (window) => window.shows("x is 1"),
  "Show Variables": async (window) => {
    await window.page.locator(".pane-body .monaco-list-row").filter({ hasText: "x" }).first().waitFor();
    await window.picture("variables");
  },
  "Show Agent Activity": async (window) => {
    await window.page.locator(".pane-body .monaco-list-row").filter({ hasText: /agent/ }).first().waitFor();
    await window.picture("activity");
  },
  "Undo Last Agent Change": (window) => until("the agent's cell is gone", async () => (await window.cells().count()) === 2).then(() => undefined),
  "Copy MCP Config for…": async (window) => {
    await window.pick("Claude Code");
    await window.toast("Copied. It goes into", 40);
    const text = await window.page.evaluate(() => navigator.clipboard.readText());
    assert.match(text, /bin\/mcp-server-jupyter/);
  },
  "Attach to Running Kernel": async (window) => {
    await window.pick(/a\.ipynb/);
    await window.run(1);
    await window.shows("x is 1");
  },
  "Run Cells That Are Out of Date": (window) => window.toast("No cell is out of date").then(() => undefined),
  "Interrupt Kernel": () => Promise.resolve(),
  "Stop Kernel": (window) => until("the kernel is gone", async () => (await window.status()).includes("no kernel")).then(() => undefined),
  "Show Diagnostics": async (window) => {
    const text = window.page.locator(".editor-instance .view-lines").filter({ hasText: version });
    await text.first().waitFor();
    await window.picture("diagnostics");
    assert.doesNotMatch(await text.first().innerText(), /Bearer|token:\s*[\w-]{20}/i);
    await window.page.keyboard.press("Control+F4");
  },
  "Show Log": (window) => window.page.locator(".part.panel .output-view, .part.panel").first().waitFor(),
  "Open Walkthrough": async (window) => {
    await window.page.locator(".gettingStartedContainer").first().waitFor();
    await window.picture("walkthrough");
  },
};
const elsewhere = ["Set Up / Repair", "Pause or Resume Agents", "Choose What Agents May Run"];

test("every command that the palette has is tried", () => {
  const titles = contributes.commands.filter(({ command }) => !hidden.has(command)).map(({ title }) => texts[title.slice(1, -1)] ?? title);
  assert.deepEqual(titles.sort(), [...Object.keys(tried), ...elsewhere].sort());
});

test("every command does what its title says", async () => {
  const editor = await sharedEditor();
  const { folder, window } = await begin(editor, ["x = 1", "print('x is', x)"]);
  await window.connected();
  await window.run(0);
  await until("the first cell is done", async () => (await window.cell(0).locator(".codicon-notebook-state-success").count()) > 0);
  using agent = await Agent.start(editor, folder);
  await agent.call("append_execute_code_cell", { notebook_path: "a.ipynb", cell_source: "'from the agent'" });
  for (const [title, check] of Object.entries(tried)) {
    await window.command(`Jupyter with Agents: ${title}`);
    try {
      await check(window);
    } catch (error) {
      await window.picture(`command-${title.replace(/\W+/g, "-")}`);
      throw new Error(`${title}: ${String(error)}`, { cause: error });
    }
  }
  await window.close();
});

