import { chmod, mkdir, readFile, rename, writeFile } from "node:fs/promises";
import { join } from "node:path";

/** The program that clients' configurations name: it stays where it is while environments come and go. */
export function launcherPath(storage: string): string {
  return join(storage, "bin", process.platform === "win32" ? "mcp-server-jupyter.cmd" : "mcp-server-jupyter");
}

/** What it holds, for the Python that has the server. */
export function launcherText(python: string, platform: NodeJS.Platform = process.platform): string {
  if (platform === "win32") return `@"${python.replaceAll("%", "%%")}" -I -m mcp_server_jupyter %*\r\n`;
  const quoted = `'${python.replaceAll("'", "'\\''")}'`;
  return [
    "#!/bin/sh",
    "# Written by the editor's extension, anew after each upgrade.",
    `[ -x ${quoted} ] || { echo "The server is not set up any more: open the editor and run 'Set Up / Repair'." >&2; exit 1; }`,
    `exec ${quoted} -I -m mcp_server_jupyter "$@"`,
    "",
  ].join("\n");
}

/** Let it start this Python from now on; by one rename, so that no client finds half of it. */
export async function writeLauncher(storage: string, python: string): Promise<string> {
  const path = launcherPath(storage);
  const text = launcherText(python);
  if ((await readFile(path, "utf8").catch(() => undefined)) === text) return path;
  await mkdir(join(storage, "bin"), { recursive: true });
  const scratch = `${path}.${String(process.pid)}.new`;
  await writeFile(scratch, text);
  await chmod(scratch, 0o755);
  await rename(scratch, path);
  return path;
}
