import { readdirSync, readFileSync } from "node:fs";
import ts from "typescript";
import { expect, test } from "vitest";

const root = new URL("..", import.meta.url);
const read = (path: string): string => readFileSync(new URL(path, root), "utf8");
const json = (path: string): Record<string, string> => JSON.parse(read(path)) as Record<string, string>;

/** The texts that the code gives to `vscode.l10n.t`. */
function used(): Set<string> {
  const files = readdirSync(new URL("src", root), { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"));
  const texts = files.flatMap((name) => [...read(`src/${name}`).matchAll(/\bt\(\s*("(?:[^"\\]|\\.)*")/g)].map((found) => JSON.parse(found[1]!) as string));
  return new Set(texts);
}

test("every text of the code is in the bundle for translators, and nothing else is", () => {
  expect(Object.keys(json("l10n/bundle.l10n.json")).sort()).toEqual([...used()].sort());
});

/** Calls and properties whose texts people read. */
const SHOWS = /\.(show(Information|Warning|Error)Message|setStatusBarMessage|showQuickPick|showInputBox)$|^(Problem|vscode\.(TreeItem|MarkdownString|NotebookCellStatusBarItem))$/;
const READ = new Set(["title", "prompt", "placeHolder", "tooltip", "label", "description", "detail", "message"]);
/** Names, and a command as it is typed. */
const NAMES = ["Jupyter", "Claude Code", "Codex", "Cursor", "Windsurf", "Claude Desktop", "VS Code", "pip install ipykernel"];

/** Whether a text has words besides names, values and code of the editor's own, such as `$(icon)` or `a.command`. */
function hasWords(text: string): boolean {
  const rest = NAMES.reduce((left, name) => left.replaceAll(name, ""), text).replaceAll(/\$\([\w~-]+\)/g, "");
  return /[A-Za-z]{2}/.test(rest) && !/^[\w@.-]+\.[\w@.-]+$/.test(rest);
}

/** Texts in places that people read, which `t` has not seen. */
function untranslated(text: string): string[] {
  const file = ts.createSourceFile("x.ts", text, ts.ScriptTarget.Latest, true);
  const found: string[] = [];
  const visit = (node: ts.Node, isRead: boolean): void => {
    if ((ts.isCallExpression(node) || ts.isNewExpression(node)) && node.expression.getText() === "t") return;
    if (isRead && (ts.isStringLiteralLike(node) || ts.isTemplateHead(node) || ts.isTemplateMiddleOrTemplateTail(node)) && hasWords(node.text)) found.push(node.text);
    if (ts.isCallExpression(node) || ts.isNewExpression(node)) {
      visit(node.expression, isRead);
      const shows = SHOWS.test(node.expression.getText());
      for (const argument of node.arguments ?? []) visit(argument, shows);
    } else if (ts.isPropertyAssignment(node)) {
      visit(node.initializer, READ.has(node.name.getText()));
    } else if (ts.isBinaryExpression(node) && node.operatorToken.kind === ts.SyntaxKind.EqualsToken && ts.isPropertyAccessExpression(node.left)) {
      visit(node.right, READ.has(node.left.name.text));
    } else if (ts.isBinaryExpression(node) && /^[=!]==?$/.test(node.operatorToken.getText())) {
      // What is compared is not shown.
    } else {
      ts.forEachChild(node, (child) => visit(child, isRead));
    }
  };
  visit(file, false);
  return found;
}

test("a text that people read is one for translators", () => {
  const planted = [
    'vscode.window.showErrorMessage("It failed.")', "item.tooltip = `Run by ${who}`", 'const x = { title: isOne ? "One cell" : t("Cells"), command: "a.b" }',
    'throw new Problem("No kernel.", { title: t("Stop"), command: "mcp.stop" })',
  ];
  expect(planted.flatMap(untranslated)).toEqual(["It failed.", "Run by ", "One cell", "No kernel."]);
  const files = readdirSync(new URL("src", root), { recursive: true, encoding: "utf8" }).filter((name) => name.endsWith(".ts"));
  const found = files.flatMap((name) => untranslated(read(`src/${name}`)).map((text) => `${name}: ${text}`));
  expect(found).toEqual([]);
});

test("every text of the manifest is there, and nothing else is", () => {
  const named = [...read("package.json").matchAll(/"%([^%"]+)%"/g)].map((found) => found[1]!);
  expect([...new Set(named)].sort()).toEqual(Object.keys(json("package.nls.json")).sort());
});

test("a translation keeps the places for values", () => {
  const places = (text: string): string[] => [...new Set([...text.matchAll(/\{\d\}/g)].map(([place]) => place))].sort();
  for (const name of readdirSync(new URL("l10n", root)).filter((one) => one.endsWith(".json"))) {
    for (const [text, translated] of Object.entries(json(`l10n/${name}`))) expect(places(translated), text).toEqual(places(text));
  }
});
