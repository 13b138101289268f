/**
 * Sets up what the tests drive: a real VS Code (the one that the npm package code-server carries) in the user's cache,
 * and a Chromium, which Debian's package brings where none is there and we are root. Ends at once when both are there.
 */
import { execFileSync } from "node:child_process";
import { existsSync, mkdirSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import path from "node:path";
import process from "node:process";
import { cacheFolder, findBrowser } from "./support/places.ts";

/** The oldest release near the minimum in package.json that the registry has; it carries VS Code of the same number. */
const RELEASE = "4.105.1";

/** Of the line that this VS Code is made for; on newer ones its extension host hangs. */
const NODE = "22.23.3";

/** What the release names by an address outside the registry, or fetches at install time: the registry's equivalents. */
const INSTEAD: Record<string, string> = { "@parcel/watcher": "2.5.1", "@vscode/ripgrep": "1.18.0" };

/** Native modules for other systems, or for features that no test touches. */
const UNUSED = ["kerberos", "@vscode/windows-process-tree", "@vscode/windows-registry"];

/** Native modules that are built here, with the machine's compiler: without one VS Code only writes no log files. */
const BUILT = ["@vscode/spdlog", "native-watchdog"];

interface Packages {
  dependencies: Record<string, string>;
  overrides?: unknown;
  packages: Record<string, { dependencies?: Record<string, string> }>;
}

/** How VS Code's server is started: Node and the script. */
export interface Program {
  node: string;
  script: string;
}

/** VS Code's server, set up if need be. */
export function setUpEditor(): Program {
  const folder = path.join(cacheFolder(), `vscode-${RELEASE}-node-${NODE}-${process.platform}-${process.arch}`);
  const program = { node: path.join(folder, "node/bin/node"), script: path.join(folder, "vscode/out/server-main.js") };
  if (existsSync(path.join(folder, "complete"))) return program;
  say(`Setting up VS Code of code-server ${RELEASE} in ${folder}; it takes about half a minute.`);
  mkdirSync(cacheFolder(), { recursive: true });
  const made = mkdtempSync(`${folder}.`);
  try {
    fill(made);
    writeFileSync(path.join(made, "complete"), "");
    rmSync(folder, { recursive: true, force: true });
    renameSync(made, folder);
  } finally {
    rmSync(made, { recursive: true, force: true });
  }
  return program;
}

function fill(folder: string): void {
  unpack(`node-${process.platform}-${process.arch}`, NODE, "package", path.join(folder, "node"));
  const vscode = path.join(folder, "vscode");
  unpack("code-server", RELEASE, "package/lib/vscode", vscode);
  mend(vscode);
  const environment = {
    ...process.env,
    PATH: `${path.join(folder, "node/bin")}${path.delimiter}${process.env["PATH"] ?? ""}`,
    npm_config_nodedir: path.join(folder, "node"), // its headers are there: nothing is fetched for what is built
  };
  run("npm", ["install", "--ignore-scripts", "--omit=dev", "--no-save", "--loglevel=error"], vscode, environment);
  try {
    run("npm", ["rebuild", "--loglevel=error", ...BUILT], vscode, environment);
  } catch {
    say(`${BUILT.join(", ")} could not be built: VS Code will write no log files.`);
  }
}

/** Unpack one folder of a package. */
function unpack(name: string, version: string, inside: string, to: string): void {
  mkdirSync(to);
  run("npm", ["pack", "--silent", `${name}@${version}`], to);
  const archive = path.join(to, `${name}-${version}.tgz`);
  run("tar", ["xzf", archive, "-C", to, `--strip-components=${inside.split("/").length}`, inside], to);
  rmSync(archive);
}

function mend(folder: string): void {
  const manifest = path.join(folder, "package.json");
  const lock = path.join(folder, "npm-shrinkwrap.json");
  const stated = JSON.parse(readFileSync(manifest, "utf8")) as Packages;
  const locked = JSON.parse(readFileSync(lock, "utf8")) as Packages;
  const without = new Set([...UNUSED, ...Object.keys(INSTEAD)]);
  const kept = Object.entries(stated.dependencies).filter(([name]) => !without.has(name));
  stated.dependencies = { ...Object.fromEntries(kept), ...INSTEAD };
  delete stated.overrides;
  locked.packages = Object.fromEntries(
    Object.entries(locked.packages).filter(([where]) => !without.has(/^node_modules\/((?:@[^/]+\/)?[^/]+)/.exec(where)?.[1] ?? "")),
  );
  locked.packages[""] = { ...locked.packages[""], dependencies: stated.dependencies };
  writeFileSync(manifest, JSON.stringify(stated));
  writeFileSync(lock, JSON.stringify(locked));
}

/** The browser's program, installed if need be. */
export function setUpBrowser(): string {
  const found = findBrowser();
  if (found) return found;
  const advice = "Install Chromium, or name a browser in CHROMIUM.";
  if (process.platform !== "linux" || process.getuid?.() !== 0) throw new Error(`There is no Chromium. ${advice}`);
  say("Installing Debian's chromium.");
  const quiet = ["-y", "-qq", "--no-install-recommends", "install", "chromium"];
  try {
    run("apt-get", quiet, "/");
  } catch {
    run("apt-get", ["-qq", "update"], "/");
    run("apt-get", quiet, "/");
  }
  const installed = findBrowser();
  if (!installed) throw new Error(`Installing Debian's chromium brought no program. ${advice}`);
  return installed;
}

function run(program: string, args: string[], cwd: string, env = process.env): void {
  execFileSync(program, args, { cwd, stdio: ["ignore", "ignore", "inherit"], env });
}

function say(text: string): void {
  process.stderr.write(`${text}\n`);
}

if (import.meta.main) {
  setUpEditor();
  setUpBrowser();
}
