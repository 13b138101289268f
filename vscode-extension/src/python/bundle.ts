import { createHash } from "node:crypto";
import { readdir, readFile } from "node:fs/promises";
import { join } from "node:path";
import type { Interpreter } from "./find";

/** What the extension carries: the server's wheel, what it needs (by hash), and an installer. */
export interface Bundle {
  readonly wheel: string;
  readonly version: string;
  /** SHA-256 of the wheel as it is, in hex. */
  readonly hash: string;
  /** Lines of a requirements file, every one with its hashes. */
  readonly requirements: string;
  readonly pip: string;
  /** Wheels of what the server needs, for some Pythons of one platform; undefined in the universal package. */
  readonly wheelhouse: string | undefined;
  readonly houseTags: readonly string[];
}

/** The extension's own files are not what was packaged. */
export class BrokenBundle extends Error {
  override readonly name = "BrokenBundle";
}

const WHEEL = /^mcp_server_jupyter-([^-]+)-.*\.whl$/;
const PIP = /^pip-[^-]+-py3-none-any\.whl$/;
const WHEELHOUSE = "wheelhouse";

/**
 * Read what is in `folder`, the extension's `python_server`, and check the wheel against the sum beside it.
 *
 * @throws BrokenBundle when something is missing or is not what was packaged.
 */
export async function readBundle(folder: string): Promise<Bundle> {
  const names = await listed(folder);
  const wheels = names.filter((name) => WHEEL.test(name));
  const wheel = wheels[0];
  if (wheel === undefined || wheels.length > 1) throw new BrokenBundle(`${folder} holds ${String(wheels.length)} wheels of the server.`);
  const bytes = await readFile(join(folder, wheel));
  const hash = createHash("sha256").update(bytes).digest("hex");
  const sum = await readFile(join(folder, `${wheel}.sha256`), "utf8").catch(() => "");
  if (sum.trim().split(/\s+/)[0] !== hash) throw new BrokenBundle(`${wheel} is not the file that was packaged.`);
  const house = await listed(join(folder, WHEELHOUSE));
  const pip = await firstPip(folder, names, house);
  if (pip === undefined) throw new BrokenBundle(`${folder} holds no pip.`);
  const requirements = await readFile(join(folder, "requirements.txt"), "utf8").catch(() => undefined);
  if (requirements === undefined) throw new BrokenBundle(`${folder} does not say what the server needs.`);
  const houseTags = [...new Set(house.flatMap((name) => /-(cp3\d+)-cp3\d+-/.exec(name)?.[1] ?? []))].sort();
  return {
    wheel: join(folder, wheel),
    version: WHEEL.exec(wheel)?.[1] ?? "",
    hash,
    requirements,
    pip,
    wheelhouse: houseTags.length > 0 ? join(folder, WHEELHOUSE) : undefined,
    houseTags,
  };
}

async function firstPip(folder: string, names: string[], house: string[]): Promise<string | undefined> {
  const beside = names.find((name) => PIP.test(name));
  if (beside !== undefined) return join(folder, beside);
  const inHouse = house.find((name) => PIP.test(name));
  if (inHouse !== undefined) return join(folder, WHEELHOUSE, inHouse);
  const own = (await listed(join(folder, "pip"))).find((name) => PIP.test(name));
  return own === undefined ? undefined : join(folder, "pip", own);
}

async function listed(folder: string): Promise<string[]> {
  return (await readdir(folder).catch(() => [])).sort();
}

/** Whether the wheelhouse has all that this Python needs. */
export function servesOffline(bundle: Bundle, interpreter: Interpreter): boolean {
  const [major, minor] = interpreter.version;
  return bundle.wheelhouse !== undefined && bundle.houseTags.includes(`cp${String(major)}${String(minor)}`);
}

/** Where this wheel is installed for this Python, below the extension's storage: never one folder for two of either. */
export function folderName(bundle: Bundle, interpreter: Interpreter): string {
  const needs = createHash("sha256").update(bundle.hash).update(bundle.requirements).digest("hex");
  return `${needs.slice(0, 12)}-${interpreter.version.slice(0, 2).join(".")}`;
}
