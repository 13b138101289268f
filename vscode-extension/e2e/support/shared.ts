/** The editor that tests share which need none of their own: the extension is set up in it once. */
import path from "node:path";
import { after } from "node:test";
import { Editor } from "./editor.ts";
import { writeNotebook } from "./notebooks.ts";
import { findVsix } from "./places.ts";
import { Window } from "./window.ts";

let starting: Promise<Editor> | null = null;
let count = 0;

after(async () => {
  const editor = await starting?.catch(() => null);
  await editor?.[Symbol.asyncDispose]();
});

export function sharedEditor(): Promise<Editor> {
  starting ??= start();
  return starting;
}

async function start(): Promise<Editor> {
  const editor = await Editor.start({ vsix: findVsix("platform") });
  const { window } = await begin(editor, ["print('set up')"]);
  await window.run(0);
  await window.shows("set up", 300);
  await window.close();
  return editor;
}

export interface Begun {
  folder: string;
  file: string;
  window: Window;
}

/** A folder of its own with a.ipynb of these cells, open in a window. */
export async function begin(editor: Editor, sources: string[]): Promise<Begun> {
  const folder = editor.folder(`folder-${++count}`);
  const file = path.join(folder, "a.ipynb");
  writeNotebook(file, sources);
  return { folder, file, window: await editor.open(folder, "a.ipynb") };
}
