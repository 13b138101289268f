import { expect, test } from "vitest";
import { placeOf } from "../src/notebook/roots";
import type { Activity } from "../src/server/protocol";
import { redact } from "../src/ui/redact";
import { byTurn, lastAgentTurn } from "../src/ui/turns";
import { authorName, duration, firstLine, isPerson } from "../src/ui/words";

const real = (path: string): string => path.replace(/^\/link/, "/real");

test("a notebook belongs to the innermost folder that holds it, by real paths, else to its own", () => {
  const folders = ["/home/me", "/home/me/inner", "/link/there"];
  expect(placeOf("/home/me/inner/sub/a.ipynb", folders, real)).toEqual({ root: "/home/me/inner", path: "sub/a.ipynb" });
  expect(placeOf("/home/me/innermost/a.ipynb", folders, real)).toEqual({ root: "/home/me", path: "innermost/a.ipynb" });
  expect(placeOf("/real/there/a.ipynb", folders, real)).toEqual({ root: "/real/there", path: "a.ipynb" });
  expect(placeOf("/elsewhere/x/a.ipynb", folders, real)).toEqual({ root: "/elsewhere/x", path: "a.ipynb" });
});

test("two folders of one name are two roots", () => {
  expect(placeOf("/a/nb/x.ipynb", ["/a/nb", "/b/nb"], real).root).not.toBe(placeOf("/b/nb/x.ipynb", ["/a/nb", "/b/nb"], real).root);
});

test("diagnostics tell neither tokens nor names", () => {
  const text = [
    "Authorization: Bearer abcdef123456", 'token = "s3cr3tvalue"', "https://ada:pw12345@index.corp.example/simple", "/home/ada/home/me/a.ipynb",
    "/mnt/ada/x", "http://127.0.0.1:4040/mcp", "/srv/salaries/x.ipynb",
  ].join("\n");
  const safe = redact(text, new Map([["/srv/salaries", "[folder 1]"]]), "/home/ada", "ada");
  for (const secret of ["abcdef123456", "s3cr3tvalue", "pw12345", "corp.example", "/home/ada", "/mnt/ada", "salaries"]) expect(safe).not.toContain(secret);
  expect(safe).toContain("~/home/me/a.ipynb");
  expect(safe).toContain("127.0.0.1:4040");
});

const edit = (turn: string, author: string, undone = false): Activity =>
  ({ kind: "edit", at: 1, notebook_path: "a.ipynb", cell_id: "c", author, turn, edit: "source", undone });

test("a turn of edits is one line, wherever its edits stand", () => {
  const lines = byTurn([edit("t2", "claude#1"), edit("t1", "codex#2"), edit("t2", "claude#1")]);
  expect(lines.map(({ activity, edits }) => [activity.kind === "edit" && activity.turn, edits])).toEqual([["t2", 2], ["t1", 1]]);
});

test("what is undone is an agent's latest turn that stands, never a person's", () => {
  expect(lastAgentTurn([edit("t3", "user"), edit("t2", "claude#1", true), edit("t1", "codex#2")])).toEqual({ turn: "t1", author: "codex#2" });
  expect(lastAgentTurn([edit("t3", "user")])).toBeUndefined();
});

test("authors, times and code are told as people tell them", () => {
  expect([authorName("claude-code#3f2a"), authorName("user"), isPerson("user"), isPerson("agent#1")]).toEqual(["claude-code", "user", true, false]);
  expect([duration(0.24), duration(61), duration(600)]).toEqual(["0.2 s", "61 s", "10 min"]);
  expect(firstLine("\n  x = 1\ny", 60)).toBe("x = 1");
});
