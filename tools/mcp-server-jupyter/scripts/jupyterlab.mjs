// Open a notebook in a real JupyterLab while an agent works in it, and picture what a person sees: docs/images/.
//
//     node tools/mcp-server-jupyter/scripts/jupyterlab.mjs [--live]
//
// It needs `make env-dev`, the development packages of vscode-extension and a Chromium (`CHROMIUM`, or on PATH).
// JupyterLab is installed into the user's cache; with --live together with jupyter-collaboration.

import { execFileSync, spawn } from "node:child_process";
import { existsSync, mkdtempSync, mkdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import os from "node:os";
import path from "node:path";
import { fileURLToPath } from "node:url";

const PROJECT = path.resolve(path.dirname(fileURLToPath(import.meta.url)), "..");
const TOP = path.resolve(PROJECT, "../..");
const IMAGES = path.join(TOP, "docs/images");
const { chromium } = createRequire(path.join(TOP, "vscode-extension/package.json"))("playwright-core");

const LIVE = process.argv.includes("--live");
const PACKAGES = ["jupyterlab==4.6.6", "ipykernel", ...(LIVE ? ["jupyter-collaboration==5.0.4"] : [])];
const TOKEN = "pictures";
const MINUTES = 2;

const NOTEBOOK = {
  cells: [
    { cell_type: "markdown", id: "title", metadata: {}, source: "# Stations" },
    { cell_type: "code", id: "first", metadata: {}, execution_count: null, outputs: [], source: "warmest = 20.5" },
  ],
  metadata: { kernelspec: { name: "python3", display_name: "Python 3", language: "python" } },
  nbformat: 4,
  nbformat_minor: 5,
};

function lab() {
  const cache = process.env.XDG_CACHE_HOME ?? path.join(os.homedir(), ".cache");
  const venv = path.join(cache, "mcp-server-jupyter/pictures", LIVE ? "live" : "plain");
  const program = path.join(venv, "bin/jupyter-lab");
  if (!existsSync(program)) {
    execFileSync("python3", ["-m", "venv", venv]);
    execFileSync(path.join(venv, "bin/pip"), ["install", "--quiet", ...PACKAGES], { stdio: "inherit" });
  }
  return program;
}

/** Start a program that says its address; it ends with this script. */
function start(program, args, cwd, environment, pattern, stop) {
  const child = spawn(program, args, { cwd, env: { ...process.env, ...environment }, stdio: ["ignore", "pipe", "pipe"] });
  stop.push(() => child.kill());
  return new Promise((resolve, reject) => {
    let said = "";
    const read = (data) => {
      said += data;
      const found = pattern.exec(said);
      if (found) resolve(found[1]);
    };
    child.stdout.on("data", read);
    child.stderr.on("data", read);
    child.on("exit", () => reject(new Error(`${program} ended:\n${said}`)));
  });
}

async function until(what, check) {
  const end = Date.now() + MINUTES * 60_000;
  for (;;) {
    const value = await check();
    if (value) return value;
    if (Date.now() > end) throw new Error(`Not within ${MINUTES} minutes: ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

function check(what, isSo) {
  if (!isSo) throw new Error(`Not so: ${what}`);
  console.log(`So it is: ${what}.`);
}

async function main() {
  const folder = mkdtempSync(path.join(os.tmpdir(), "pictures-"));
  const stop = [() => rmSync(folder, { recursive: true, force: true, maxRetries: 10, retryDelay: 200 })];
  try {
    const root = path.join(folder, "root");
    mkdirSync(root);
    const file = path.join(root, "analysis.ipynb");
    writeFileSync(file, JSON.stringify(NOTEBOOK, null, 1));
    const own = Object.fromEntries(
      ["JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "JUPYTERLAB_SETTINGS_DIR", "JUPYTERLAB_WORKSPACES_DIR"]
        .map((name) => [name, path.join(folder, name)]),
    );
    const labArguments = ["--no-browser", "--ip=127.0.0.1", "--port=0", "--IdentityProvider.token=", "--allow-root"];
    const labUrl = await start(lab(), [...labArguments, `--notebook-dir=${root}`], folder, own, /(http:\/\/127\.0\.0\.1:\d+)\/lab/, stop);
    const serve = ["serve", `--root=${root}`, `--state-dir=${path.join(folder, "state")}`, "--port=0", `--token=${TOKEN}`];
    const server = path.join(PROJECT, ".venv/bin/mcp-server-jupyter");
    const address = await start(server, serve, folder, {}, /Address\s+(\S+)\/mcp/, stop);
    const call = async (name, given) => {
      const request = { method: "POST", headers: { Authorization: `Bearer ${TOKEN}` }, body: JSON.stringify(given) };
      const answer = await (await fetch(`${address}/api/operations/${name}`, request)).json();
      console.log(`> ${name}\n${answer.text ?? JSON.stringify(answer)}`);
    };
    const onDisk = () => JSON.parse(readFileSync(file, "utf8")).cells.map((cell) => [cell.source].flat().join(""));

    const executablePath = process.env.CHROMIUM ?? execFileSync("which", ["chromium"], { encoding: "utf8" }).trim();
    const browser = await chromium.launch({ executablePath, args: ["--no-sandbox", "--disable-gpu"] });
    stop.push(() => browser.close());
    const page = await browser.newPage({ viewport: { width: 840, height: 420 } });
    page.setDefaultTimeout(MINUTES * 60_000);
    await page.goto(`${labUrl}/lab/tree/analysis.ipynb?reset`);
    const sources = () => page.$$eval(".jp-Notebook .jp-Cell .cm-content", (cells) => cells.map((cell) => cell.textContent));
    await until("JupyterLab shows the notebook", async () => (await sources()).includes("warmest = 20.5"));
    await page.getByText("Python 3 (ipykernel) | Idle").waitFor();
    for (const button of await page.locator(".Toastify__toast button", { hasText: "No" }).all()) await button.click();

    await call("append_execute_code_cell", { notebook_path: "analysis.ipynb", cell_source: "print('by the agent:', 6 * 7)" });
    const began = Date.now();
    await until("the agent's cell is in the file", () => onDisk().length === 3);
    if (LIVE) {
      await until("JupyterLab shows the agent's cell", async () => (await sources()).length === 3);
      console.log(`JupyterLab shows it ${Date.now() - began} ms after it was in the file.`);
      await page.screenshot({ path: path.join(IMAGES, "jupyterlab-live.png") });
      return;
    }
    await page.screenshot({ path: path.join(IMAGES, "jupyterlab-stale.png") });
    console.log(`JupyterLab shows ${(await sources()).length} cells, the file has ${onDisk().length}.`);
    const typed = "warmest = 20.5  # checked";
    const saveInstead = async () => {
      await page.locator(".jp-Notebook .jp-CodeCell .cm-content").first().click();
      await page.keyboard.press("Control+End");
      await page.keyboard.type("  # checked");
      await page.keyboard.press("Control+s");
      await page.locator(".jp-Dialog", { hasText: "File Changed" }).waitFor();
    };
    const answer = async (button) => {
      await page.locator(".jp-Dialog button", { hasText: button }).click();
      await page.locator(".jp-Dialog").waitFor({ state: "detached" });
    };
    const saved = readFileSync(file, "utf8");
    await saveInstead();
    await page.screenshot({ path: path.join(IMAGES, "jupyterlab-save.png") });
    await answer("Cancel");
    check("after Cancel the window has what was typed", (await sources()).includes(typed));
    check("after Cancel the window has not the agent's cell", (await sources()).length === 2);
    check("after Cancel the file is as it was", readFileSync(file, "utf8") === saved);

    await page.keyboard.press("Control+s");
    await page.locator(".jp-Dialog", { hasText: "File Changed" }).waitFor();
    await answer("Revert");
    await until("after Revert the window has the agent's cell", async () => (await sources()).length === 3);
    check("after Revert what was typed is gone", !(await sources()).includes(typed));
    await page.locator(".jp-Notebook .jp-OutputArea", { hasText: "by the agent: 42" }).waitFor();
    check("after Revert the file is as it was", readFileSync(file, "utf8") === saved);

    await call("append_execute_code_cell", { notebook_path: "analysis.ipynb", cell_source: "print('once more')" });
    await until("the agent's other cell is in the file", () => onDisk().length === 4);
    await saveInstead();
    await answer("Overwrite");
    await until("JupyterLab has overwritten the file", () => onDisk().length === 3);
    check("after Overwrite the file has what was typed", onDisk().includes(typed));
    await call("get_notebook_info", { notebook_path: "analysis.ipynb" });
  } finally {
    for (const end of stop.reverse()) await end();
  }
}

mkdirSync(IMAGES, { recursive: true });
await main();
