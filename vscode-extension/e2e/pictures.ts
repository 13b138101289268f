/**
 * `npm run pictures`: makes the walkthrough's pictures new, in media/walkthrough, from the packaged extension in a real
 * VS Code with a real agent beside it. `make package` first. Look at them before you commit them.
 */
import { execFileSync } from "node:child_process";
import path from "node:path";
import type { Locator } from "playwright-core";
import { Agent } from "./support/agent.ts";
import { Editor } from "./support/editor.ts";
import { writeNotebook } from "./support/notebooks.ts";
import { extensionFolder, findVsix, python } from "./support/places.ts";
import { until } from "./support/wait.ts";

const SIZE = { width: 960, height: 600 };
/** An editor's window has few colours: with 64 of them a file is a third as big, and nobody sees it. */
const REDUCE = `
import sys
from PIL import Image
with Image.open(sys.argv[1]) as picture:
    reduced = picture.convert("RGB").quantize(64, dither=Image.Dither.NONE)
reduced.save(sys.argv[1], optimize=True)
`;
const TITLE = "Jupyter with Agents";
const CELLS = [
  "# %md\n## Which station warms fastest?",
  "stations = {\n    'Harbour': [11.2, 11.9, 12.4],\n    'Hill': [8.1, 8.3, 9.6],\n}\nlen(stations)",
  "trend = {name: round(t[-1] - t[0], 1) for name, t in stations.items()}\ntrend",
];

await using editor = await Editor.start({ vsix: findVsix("platform") });
const folder = editor.folder("weather");
const notebook = { notebook_path: "analysis.ipynb" };
writeNotebook(path.join(folder, "analysis.ipynb"), CELLS);
const window = await editor.open(folder, "analysis.ipynb");
const { page } = window;
await page.setViewportSize(SIZE);

/** Keep what the window shows, without what lies over it by chance. */
async function picture(name: string): Promise<void> {
  await page.mouse.move(SIZE.width / 2, SIZE.height - 60);
  // A list to pick from shows the hint of the row at hand for as long as it is open.
  const isPicking = await window.rows().first().isVisible();
  if (!isPicking) await page.locator(".workbench-hover-container:visible").waitFor({ state: "hidden" });
  const file = path.join(extensionFolder, "media/walkthrough", `${name}.png`);
  await page.screenshot({ path: file });
  execFileSync(python, ["-c", REDUCE, file]);
}

/** Scroll on until something of the notebook is in view, above what lies at the window's end. */
async function scrollTo(wanted: Locator): Promise<void> {
  await page.mouse.move(SIZE.width / 2, SIZE.height / 2);
  await until("it is in view", async () => {
    const box = (await wanted.isVisible()) ? await wanted.boundingBox() : null;
    if (box !== null && box.y + box.height < SIZE.height - 40) return true;
    await page.mouse.wheel(0, 100);
    return false;
  });
}

async function sideBar(isOpen: boolean): Promise<void> {
  const bar = page.locator(".part.sidebar");
  if ((await bar.isVisible()) !== isOpen) await window.command("View: Toggle Primary Side Bar Visibility");
  await bar.waitFor({ state: isOpen ? "visible" : "hidden" });
}

await window.run(1);
await window.run(2);
await window.shows("'Hill': 1.5", 300);
await window.clearToasts();
await window.save();
await sideBar(false);
await picture("run");

await window.command(`${TITLE}: Copy MCP Config for…`);
await window.rows().filter({ hasText: "Claude Code" }).first().waitFor();
await picture("config");
await page.keyboard.press("Escape");

using agent = await Agent.start(editor, folder, "claude-code");
await window.type(2, "  # in degrees");
const source = "fastest = max(trend, key=trend.get)\nprint(f'{fastest} warms fastest')";
await agent.call("append_execute_code_cell", { ...notebook, cell_source: source });
await window.shows("Hill warms fastest");
await scrollTo(page.locator(".notebookOverlay .cell-statusbar-container").filter({ hasText: "claude-code" }).first());
await page.mouse.wheel(0, 60);
await picture("agent");

await window.command(`${TITLE}: Choose What Agents May Run`);
await window.pick("Ask");
await window.pick("In This Notebook");
await window.toast(/What agents run in/);
await window.clearToasts();
const asked = agent.call("append_execute_code_cell", { ...notebook, cell_source: "stations['Airport'] = [10.4, 10.6, 10.9]" });
await window.toast(/claude-code asks to run/, 60);
// However long the notification stays, the cell itself goes on asking.
await window.clearToasts();
const asking = page.locator(".notebookOverlay .cell-statusbar-container").filter({ hasText: "asks to run this" }).first();
await scrollTo(asking);
await picture("approval");
await asking.locator(".cell-status-item").filter({ hasText: "Approve" }).click();
await asked;
await window.save();

await sideBar(true);
await window.command(`${TITLE}: Show Variables`);
await page.locator('.pane-body .monaco-list-row[aria-level="2"]').filter({ hasText: "fastest" }).first().waitFor();
await page.locator(".pane-body .monaco-list-row").filter({ hasText: "claude-code" }).first().waitFor();
await picture("variables");
await window.close();
