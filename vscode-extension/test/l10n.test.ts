import { readdirSync, readFileSync } from "node:fs";
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
