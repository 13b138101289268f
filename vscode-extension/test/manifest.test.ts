/** What package.json says, against what there is. */
import { build } from "esbuild";
import { existsSync, readFileSync } from "node:fs";
import path from "node:path";
import { beforeAll, expect, test } from "vitest";
import { options } from "../scripts/build.mjs";
import { MAX_BUNDLE } from "../scripts/check-bundle.js";

interface Manifest {
  name: string;
  version: string;
  main: string;
  l10n: string;
  engines: { vscode: string };
  devDependencies: Record<string, string>;
  extensionDependencies?: string[];
  enabledApiProposals?: string[];
  contributes: {
    commands?: { command: string; title: string }[];
    menus?: Record<string, { command?: string }[]>;
    keybindings?: { command: string }[];
    configuration?: { properties: Record<string, { scope?: string }> };
    [other: string]: unknown;
  };
}

const root = path.resolve(import.meta.dirname, "..");
const read = (name: string) => readFileSync(path.join(root, name), "utf8");
const manifest = JSON.parse(read("package.json")) as Manifest;
const commands = (manifest.contributes.commands ?? []).map(({ command }) => command);
let bundle = "";

beforeAll(async () => {
  const built = await build({ ...options, write: false });
  bundle = built.outputFiles[0]!.text;
});

/** Every text in a value, however deep. */
function texts(value: unknown): string[] {
  if (typeof value === "string") return [value];
  return value && typeof value === "object" ? Object.values(value).flatMap(texts) : [];
}

test("the extension and the server have one version", () => {
  const pyproject = read("../tools/mcp-server-jupyter/pyproject.toml");
  expect(manifest.version).toBe(/^version = "(.*)"$/m.exec(pyproject)?.[1]);
});

test("the types are those of the oldest editor that is supported", () => {
  expect(manifest.engines.vscode).toBe(`^${manifest.devDependencies["@types/vscode"] ?? ""}`);
});

test("nothing but the stable API is used, and no other extension is needed", () => {
  expect(manifest.enabledApiProposals).toBeUndefined();
  expect(manifest.extensionDependencies ?? []).toEqual([]);
});

test("every command that is declared is one that the bundle knows", () => {
  for (const command of commands) expect(bundle, command).toContain(command);
});

test("every command that is used anywhere is declared", () => {
  const { menus = {}, keybindings = [] } = manifest.contributes;
  const used = [...Object.values(menus).flat(), ...keybindings].flatMap(({ command }) => command ?? []);
  const linked = texts(manifest.contributes).flatMap((text) => [...text.matchAll(/\(command:([\w.-]+)/g)].map(([, name]) => name ?? ""));
  const own = [...used, ...linked].filter((name) => name.startsWith(manifest.name));
  expect(commands).toEqual(expect.arrayContaining(own));
});

test("every file that the manifest names is there", () => {
  const named = texts({ ...manifest.contributes, configuration: null })
    .concat(manifest.l10n)
    .filter((text) => /^\.?\/?(media|l10n|images|resources|walkthrough)\b.*/.test(text));
  const absent = named.filter((name) => !existsSync(path.join(root, name)));
  expect(absent).toEqual([]);
});

test("every text that the manifest takes from package.nls.json is there, and no other", () => {
  const used = [...read("package.json").matchAll(/"%([\w.-]+)%"/g)].map(([, key]) => key ?? "");
  const known = existsSync(path.join(root, "package.nls.json")) ? (JSON.parse(read("package.nls.json")) as object) : {};
  expect(new Set(Object.keys(known))).toEqual(new Set(used));
});

test("settings that a repository could loosen are the machine's alone", () => {
  const properties = manifest.contributes.configuration?.properties ?? {};
  const guarded = Object.entries(properties).filter(([name]) => /\.(agents\.run|python\.path|install\.source)$/.test(name));
  for (const [name, { scope }] of guarded) expect([name, scope]).toEqual([name, "machine"]);
});

test("the bundle is small, and whole", () => {
  expect(Buffer.byteLength(bundle)).toBeLessThanOrEqual(MAX_BUNDLE);
  const required = [...bundle.matchAll(/require\("([^"]+)"\)/g)].map(([, name]) => name ?? "");
  expect(required.filter((name) => name !== "vscode" && !name.startsWith("node:"))).toEqual([]);
});

test("the bundle names no host but this machine", () => {
  const hosts = [...bundle.matchAll(/\b(?:https?|wss?):\/\/([\w.-]+)/g)].map(([, host]) => host ?? "");
  expect(hosts.filter((host) => !["127.0.0.1", "localhost"].includes(host))).toEqual([]);
});

test("no lock names a host", () => {
  const locks = ["package-lock.json", "../tools/mcp-server-jupyter/poetry.lock"];
  const found = locks.flatMap((name) => [...read(name).matchAll(/"resolved"|^url = .*|^source = .*/gm)].map(([line]) => `${name}: ${line}`));
  expect(found).toEqual([]);
});

