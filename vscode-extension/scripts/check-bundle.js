// What `vscode:prepublish` checks before anything is packaged: the extension carries one wheel of the server, whose hash
// is known, what it needs by hash, and no Python source. `complaints` says what is wrong, in sentences.
"use strict";

const { createHash } = require("node:crypto");
const fs = require("node:fs");
const path = require("node:path");
const { listFiles, PackageManager } = require("@vscode/vsce");

const MAX_BUNDLE = 250_000;
const WHEEL = /^python_server\/mcp_server_jupyter-(\d+\.\d+\.\d+)-py3-none-any\.whl$/;

/** @param {string} extension the folder of the extension @returns {Promise<string[]>} */
async function complaints(extension) {
  const listed = await listFiles({ cwd: extension, packageManager: PackageManager.None });
  const files = listed.map((file) => file.replaceAll("\\", "/"));
  return [...source(files), ...wheels(extension, files), ...requirements(extension), ...pip(extension, files), ...script(extension)];
}

function source(files) {
  const found = files.filter((file) => /\.(py|pyi|pyc|pyx)$/.test(file) || /(^|\/)(pyproject\.toml|setup\.cfg)$/.test(file));
  return found.map((file) => `${file} is Python source: the extension carries the built wheel alone.`);
}

function wheels(extension, files) {
  const found = files.filter((file) => /^python_server\/[^/]+\.(whl|tar\.gz|zip)$/.test(file));
  if (found.length === 0) return ["There is no wheel in python_server/: run `npm run bundle-python`."];
  if (found.length > 1) return [`python_server/ holds ${found.length} packages, not one: ${found.join(", ")}.`];
  const [wheel] = found;
  const version = WHEEL.exec(wheel)?.[1];
  if (!version) return [`${wheel} is not a wheel of the server.`];
  const stated = JSON.parse(read(extension, "package.json")).version;
  const problems = version === stated ? [] : [`${wheel} is not of the extension's version, ${stated}: run \`npm run bundle-python\`.`];
  const sum = read(extension, `${wheel}.sha256`).split(/\s/)[0];
  return sum === sha256(path.join(extension, wheel)) ? problems : [...problems, `The SHA-256 beside ${wheel} is not that of the wheel.`];
}

function requirements(extension) {
  const lines = requirementLines(read(extension, "python_server/requirements.txt"));
  if (lines.length === 0) return ["python_server/requirements.txt does not say what the server needs: run `npm run bundle-python`."];
  return lines
    .filter((line) => !/^[\w.-]+(\[[\w,.-]+\])?==\S+ .*--hash=sha256:[0-9a-f]{64}(\s|$)/.test(line))
    .map((line) => `python_server/requirements.txt: no exact version or no hash: ${line.slice(0, 100)}`);
}

function pip(extension, files) {
  const found = files.filter((file) => /^python_server\/pip\//.test(file));
  if (found.length !== 1) return [`python_server/pip/ holds ${found.length} files, not one wheel of pip: run \`npm run bundle-python\`.`];
  const pinned = requirementLines(fs.readFileSync(path.join(__dirname, "requirements-pip.txt"), "utf8")).join("\n");
  return pinned.includes(`--hash=sha256:${sha256(path.join(extension, found[0]))}`) ? [] : [`${found[0]} is not the file that scripts/requirements-pip.txt names.`];
}

function script(extension) {
  const file = path.join(extension, "dist/extension.js");
  const size = fs.existsSync(file) ? fs.statSync(file).size : 0;
  if (size === 0) return ["dist/extension.js is missing: run `npm run build`."];
  return size <= MAX_BUNDLE ? [] : [`dist/extension.js has ${size} bytes, more than ${MAX_BUNDLE}.`];
}

/** The requirements of a file, one a line, comments and continuations undone. */
function requirementLines(text) {
  return text
    .replace(/\\\n/g, " ")
    .split("\n")
    .map((line) => line.trim())
    .filter((line) => line && !line.startsWith("#"));
}

function read(extension, name) {
  const file = path.join(extension, name);
  return fs.existsSync(file) ? fs.readFileSync(file, "utf8") : "";
}

function sha256(file) {
  return createHash("sha256").update(fs.readFileSync(file)).digest("hex");
}

module.exports = { complaints, MAX_BUNDLE };

if (require.main === module) {
  complaints(path.resolve(__dirname, "..")).then((found) => {
    for (const complaint of found) console.error(complaint);
    process.exitCode = found.length > 0 ? 1 : 0;
  });
}
