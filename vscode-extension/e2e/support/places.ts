/** Where things are: in this repository, and in the cache outside of it. */
import { accessSync, constants, existsSync, readdirSync, readFileSync } from "node:fs";
import { homedir } from "node:os";
import path from "node:path";

export const extensionFolder = path.resolve(import.meta.dirname, "../..");
export const pythonPackage = path.resolve(extensionFolder, "../tools/mcp-server-jupyter");
export const { version } = JSON.parse(readFileSync(path.join(extensionFolder, "package.json"), "utf8")) as { version: string };
export const shots = path.join(extensionFolder, "e2e/shots");

export function cacheFolder(): string {
  return path.join(process.env["XDG_CACHE_HOME"] || path.join(homedir(), ".cache"), "mcp-server-jupyter");
}

/** The Python of the development environment: what a data scientist has, with ipykernel and without our server. */
export const python = path.join(pythonPackage, ".venv/bin/python");

/** A Chromium, Chrome or Edge of this machine: `CHROMIUM`, else the first that is on PATH; null without one. */
export function findBrowser(): string | null {
  const named = process.env["CHROMIUM"];
  if (named) return named;
  const names = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "microsoft-edge"];
  const folders = (process.env["PATH"] ?? "").split(path.delimiter);
  return names.flatMap((name) => folders.map((folder) => path.join(folder, name))).find(isProgram) ?? null;
}

function isProgram(file: string): boolean {
  try {
    accessSync(file, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** The packaged extension to test: `VSIX`, else the newest of `make package` for this platform, else the universal. */
export function findVsix(kind: "platform" | "universal" = "platform"): string {
  const named = process.env["VSIX"];
  if (named) return path.resolve(named);
  const folder = path.resolve(process.env["DIST"] || path.resolve(extensionFolder, "../dist"));
  const all = existsSync(folder) ? readdirSync(folder).filter((name) => name.endsWith(".vsix")) : [];
  const isUniversal = (name: string) => /^mcp-server-jupyter-\d/.test(name);
  const found = all.filter((name) => isUniversal(name) === (kind === "universal")).sort();
  const last = found.at(-1);
  if (last === undefined) throw new Error(`There is no ${kind} .vsix in ${folder}: run \`make package\` first.`);
  return path.join(folder, last);
}
