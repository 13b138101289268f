/** Repairing the set-up by the palette's command. */
import { test } from "node:test";
import { begin, sharedEditor } from "./support/shared.ts";

test("a repaired server is set up anew, and the next cell runs", async () => {
  const editor = await sharedEditor();
  const { window } = await begin(editor, ["print('works', 'again')"]);
  await window.connected();
  await window.command("Jupyter with Agents: Set Up / Repair");
  await window.toast("The server is set up", 90);
  await window.run(0);
  await window.shows("works again", 40);
  await window.close();
});
