/** One window of the editor, driven as a person drives it: keys, clicks, the palette; read as a person reads it. */
import { mkdirSync } from "node:fs";
import path from "node:path";
import type { Browser, BrowserContext, Locator, Page } from "playwright-core";
import { shots } from "./places.ts";
import { pause, until } from "./wait.ts";

export class Window {
  readonly page: Page;
  readonly #context: BrowserContext;
  readonly #url: string;

  private constructor(page: Page, context: BrowserContext, url: string) {
    this.page = page;
    this.#context = context;
    this.#url = url;
  }

  static async open(browser: Browser, port: number, folder: string, notebook?: string): Promise<Window> {
    const context = await browser.newContext({
      viewport: { width: 1280, height: 1000 },
      permissions: ["clipboard-read", "clipboard-write"],
    });
    const page = await context.newPage();
    page.setDefaultTimeout(60_000);
    const url = `http://127.0.0.1:${port}/?folder=${encodeURIComponent(folder)}`;
    const window = new Window(page, context, url);
    await page.goto(url);
    await window.#ready();
    if (notebook) await window.show(notebook);
    return window;
  }

  /** Open a notebook of the folder, by the explorer, for keeps. */
  async show(name: string): Promise<void> {
    const tab = this.page.locator(`.tab.active[data-resource-name="${name}"]`);
    const cell = this.page.locator(".notebookOverlay .code-cell-row").first();
    for (let attempt = 0; attempt < 10; attempt++) {
      await this.page.locator(`.explorer-folders-view .monaco-list-row[aria-label^="${name}"]`).dblclick();
      await tab.waitFor();
      await cell.or(this.page.locator(`.editor-instance .monaco-editor[data-uri$="${name}"]`)).first().waitFor();
      if (await cell.isVisible()) return;
      // The editor did not know of notebooks yet, and shows JSON.
      await tab.locator(".codicon-close").click();
      await pause(500);
    }
    throw new Error(`${name} does not open as a notebook.`);
  }

  /** Load the page again, as F5 does: a new extension host; the kernels stay. */
  async reload(): Promise<void> {
    this.page.once("dialog", (dialog) => void dialog.accept()); // unsaved changes: they are kept by the editor's backup
    await this.page.goto(this.#url);
    await this.#ready();
  }

  async close(): Promise<void> {
    await this.#context.close();
  }

  async #ready(): Promise<void> {
    await this.page.locator(".monaco-workbench .part.statusbar .statusbar-item").first().waitFor({ timeout: 60_000 });
  }

  /** Run a command of the palette by its title, e.g. "Notebook: Run All". */
  async command(title: string): Promise<void> {
    for (let attempt = 0; attempt < 5; attempt++) {
      const input = await this.#palette(`>${title}`);
      const row = input && this.rows().filter({ hasText: title }).first();
      if (row && (await appears(row, 4000))) {
        await row.click();
        return;
      }
      await this.page.keyboard.press("Escape");
    }
    throw new Error(`The palette has no command "${title}".`);
  }

  /** The titles that the palette offers for a text. */
  async commands(text: string): Promise<string[]> {
    const input = await this.#palette(`>${text}`);
    if (!input) throw new Error("The palette does not open.");
    await pause(500);
    const titles = await this.rows().locator(".label-name, .monaco-highlighted-label").allInnerTexts();
    await this.page.keyboard.press("Escape");
    return titles;
  }

  async #palette(text: string): Promise<Locator | null> {
    await this.page.keyboard.press("F1");
    const input = this.page.locator(".quick-input-widget:visible input").first();
    if (!(await appears(input, 3000))) return null;
    await input.fill(text);
    return input;
  }

  /** The rows of the palette, or of whatever list to pick from is open. */
  rows(): Locator {
    return this.page.locator(".quick-input-widget:visible .quick-input-list .monaco-list-row");
  }

  /** Pick a row of the open list. */
  async pick(text: string | RegExp): Promise<void> {
    await this.rows().filter({ hasText: text }).first().click();
  }

  /** The rows of the notebook's cells that are in view. */
  cells(): Locator {
    return this.page.locator(".notebookOverlay .cell-list-container .monaco-list-row:is(.code-cell-row, .markdown-cell-row)");
  }

  cell(index: number): Locator {
    return this.page.locator(`.notebookOverlay .cell-list-container .monaco-list-row[data-index="${index}"]`);
  }

  /** The source of a cell as the editor shows it. */
  async source(index: number): Promise<string> {
    const lines = await this.cell(index).locator(".view-line").allInnerTexts();
    return lines.join("\n").replaceAll("\u00a0", " ");
  }

  /** Put the cursor at the end of a cell's source and type, which makes the notebook dirty. */
  async type(index: number, text: string): Promise<void> {
    await this.cell(index).locator(".monaco-editor .view-lines").first().click();
    await this.page.keyboard.press("Control+End");
    await this.page.keyboard.type(text, { delay: 15 });
  }

  /** Delete a cell, as a person does. */
  async deleteCell(index: number): Promise<void> {
    const before = await this.cells().count();
    await this.cell(index).locator(".monaco-editor .view-lines").first().click();
    await this.command("Notebook: Delete Cell");
    await until("the cell is gone", async () => (await this.cells().count()) < before);
  }

  /** The whole text of the editor at hand, by the clipboard: only what is in view is in the page. */
  async copyAll(): Promise<string> {
    await this.page.locator(".editor-instance .view-lines").last().click();
    await this.page.keyboard.press("Control+A");
    await this.page.keyboard.press("Control+C");
    return this.page.evaluate(() => navigator.clipboard.readText());
  }

  /** Wait until a kernel of ours is selected for the notebook; its label. */
  async kernel(): Promise<string> {
    const label = this.page.locator(".kernel-label").first();
    return until("a kernel is selected", async () => {
      const text = await label.innerText();
      return text.includes("Select Kernel") || text.includes("Detecting") ? "" : text;
    });
  }

  /** Choose a kernel in the editor's picker, which asks for the extension first where several have some. */
  async choose(kernel: string, extension: string): Promise<void> {
    const wanted = this.rows().filter({ hasText: kernel }).first();
    const other = this.rows().filter({ hasText: "Select Another Kernel" }).first();
    const source = this.rows().filter({ hasText: extension }).first();
    await this.command("Notebook: Select Notebook Kernel");
    // The click that chose the command leaves the mouse over the list, where a row's hint would lie over the next one.
    await this.page.mouse.move(2, 2);
    for (const step of [other, source]) {
      await wanted.or(other).or(source).first().waitFor();
      if (!(await wanted.isVisible()) && (await step.isVisible())) await step.click();
    }
    await wanted.click();
  }

  /** Wait until the folder's server is there for this window. */
  async connected(seconds = 60): Promise<void> {
    await until("the status tells of the kernel", async () => /: (no kernel|idle|busy|kernel died|input for|an agent asks)/.test(await this.status()), { seconds });
  }

  /**
   * Run a cell by the button beside it. Until the notebook has its kernel the editor asks for one instead; the extension
   * chooses it a moment later, so the question is put away and the button clicked again, as a person would.
   */
  async run(index: number): Promise<void> {
    await this.kernel();
    const question = this.page.locator(".quick-input-widget", { hasText: "Select Kernel" });
    await until("the cell is run, and no kernel is asked for", async () => {
      const before = await this.#marks(index);
      await this.cell(index).hover();
      await this.cell(index).locator(".run-button-container .action-label").first().click();
      // One that is refused has the marks it had: no question for so long is an answer, too.
      const end = Date.now() + 5_000;
      while (Date.now() < end) {
        if (await question.isVisible()) {
          await this.page.keyboard.press("Escape");
          await question.waitFor({ state: "hidden" });
          return false;
        }
        if ((await this.#marks(index)) !== before) return true;
        await pause(50);
      }
      return true;
    });
  }

  /** Count, state and duration of a cell, as far as it has them. */
  async #marks(index: number): Promise<string> {
    const marks = this.cell(index).locator(".execution-count-label, [class*='codicon-notebook-state-'], .cell-status-left");
    return (await marks.evaluateAll((found) => found.map((one) => [one.getAttribute("class"), one.innerHTML].join(" ")))).join("|");
  }

  /** Wait until a cell is marked as run to its end without an error: a tick and its count. */
  async ran(index: number, seconds = 60): Promise<void> {
    const cell = this.cell(index);
    await until(`cell ${index} is marked as run`, async () => {
      if ((await cell.locator(".codicon-notebook-state-success").count()) === 0) return false;
      return /\d/.test(await cell.locator(".execution-count-label").first().innerText());
    }, { seconds });
  }

  /** Put another text into a cell; again if the editor was just loading it anew. */
  async replace(index: number, text: string): Promise<void> {
    const editor = this.cell(index).locator(".monaco-editor .view-lines").first();
    await until("the cell has the text", async () => {
      if ((await this.source(index)) === text) return true;
      await editor.click();
      await this.page.keyboard.press("Control+A");
      // Pasted: brackets and quotes that are typed are closed by the editor.
      await this.page.evaluate((value) => navigator.clipboard.writeText(value), text);
      await this.page.keyboard.press("Control+V");
      return false;
    }, { every: 1000 });
  }

  /** Save, again if a run that ends meanwhile changes the notebook once more. */
  async save(): Promise<void> {
    await until(
      "the notebook is saved",
      async () => {
        await this.page.keyboard.press("Control+S");
        return !(await this.isDirty());
      },
      { every: 700 },
    );
  }

  async isDirty(): Promise<boolean> {
    return (await this.page.locator(".tab.active.dirty").count()) > 0;
  }

  /** The text of all outputs: they live in frames of their own. */
  async outputs(): Promise<string> {
    const texts = await Promise.all(
      this.page.frames().map(async (frame) => {
        try {
          return await frame.evaluate(() => document.querySelector("#container")?.textContent ?? "");
        } catch {
          return ""; // a frame that is being replaced
        }
      }),
    );
    return texts.join("\n");
  }

  /** Wait until the outputs contain a text. */
  async shows(text: string | RegExp, seconds = 60): Promise<void> {
    try {
      await until(`the outputs show ${String(text)}`, async () => has(await this.outputs(), text), { seconds });
    } catch (error) {
      await this.picture(`missing-${String(text).replaceAll(/\W+/g, "-")}`);
      throw error;
    }
  }

  /** Wait for a notification with a text; its element. */
  async toast(text: string | RegExp, seconds = 60): Promise<Locator> {
    const toast = this.page.locator(".notification-toast, .notification-list-item").filter({ hasText: text }).first();
    await toast.waitFor({ timeout: seconds * 1000 });
    return toast;
  }

  /** Press a button of a notification. */
  async answer(text: string | RegExp, button: string): Promise<void> {
    const toast = await this.toast(text);
    await toast.getByRole("button", { name: button }).first().click();
  }

  /** Take the notifications away: they lie over what a picture or a click is meant for. */
  async clearToasts(): Promise<void> {
    await this.command("Notifications: Clear All Notifications");
  }

  /** The text of our item in the status bar; "" while there is none. */
  async status(): Promise<string> {
    const item = this.page.locator('.statusbar-item[id^="mcp-server-jupyter"]').first();
    return (await item.count()) ? await item.innerText() : "";
  }

  /** Keep a picture, for a person to look at. */
  async picture(name: string): Promise<void> {
    // What the mouse is over has a hint, which would lie over the cell's marks.
    await this.page.mouse.move(640, 700);
    await this.page.locator(".workbench-hover-container:visible").waitFor({ state: "hidden" });
    mkdirSync(shots, { recursive: true });
    await this.page.screenshot({ path: path.join(shots, `${name}.png`) });
  }
}

async function appears(locator: Locator, timeout: number): Promise<boolean> {
  try {
    await locator.waitFor({ state: "visible", timeout });
    return true;
  } catch {
    return false;
  }
}

function has(text: string, wanted: string | RegExp): boolean {
  return typeof wanted === "string" ? text.includes(wanted) : wanted.test(text);
}
