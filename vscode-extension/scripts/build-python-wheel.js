// `npm run bundle-python`: build what the extension carries of Python into python_server/, which git ignores:
//
//   mcp_server_jupyter-X.Y.Z-py3-none-any.whl   the server, with its SHA-256 beside it (.sha256)
//   requirements.txt                            what it needs, of poetry.lock, every file by its hashes
//   pip/pip-*.whl                               an installer, by the hash in requirements-pip.txt
//
// With Poetry of the version that scripts/bootstrap.py pins; where that cannot be set up, with `python -m build`: then
// the wheel is whole, but nothing can say the hashes of what it needs, and the check before packaging refuses.
// `--if-missing`: only when there is no wheel yet.
"use strict";

const { execFileSync } = require("node:child_process");
const { createHash } = require("node:crypto");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");

const extension = path.resolve(__dirname, "..");
const project = path.resolve(extension, "../tools/mcp-server-jupyter");
const target = path.join(extension, "python_server");

/** Build into python_server/; what was there is replaced once everything is there. */
function bundle() {
  const python = capture(path.join(project, "scripts/find-python"), []);
  const poetry = findPoetry(python);
  const made = fs.mkdtempSync(`${target}.new-`);
  try {
    const wheel = buildWheel(python, poetry, made);
    const name = path.basename(wheel);
    fs.writeFileSync(`${wheel}.sha256`, `${sha256(wheel)}  ${name}\n`);
    if (poetry) exportRequirements(poetry, path.join(made, "requirements.txt"));
    else console.error("Without Poetry there are no hashes of what the server needs: this bundle is not for packaging.");
    fetchPip(poetry ?? python, path.join(made, "pip"));
    fs.rmSync(target, { recursive: true, force: true });
    fs.renameSync(made, target);
    fs.chmodSync(target, 0o755);
    return path.join(target, name);
  } finally {
    fs.rmSync(made, { recursive: true, force: true });
  }
}

/** The Python of Poetry's own environment; null where it cannot be set up. */
function findPoetry(python) {
  try {
    return capture(python, [path.join(project, "scripts/bootstrap.py"), "poetry"]);
  } catch {
    console.error("Poetry cannot be set up: building with `python -m build`.");
    return null;
  }
}

function buildWheel(python, poetry, folder) {
  const [program, ...args] = poetry
    ? [poetry, "-m", "poetry", "--no-interaction", "--project", project, "build", "--format", "wheel", "--output", folder]
    : [python, "-m", "build", "--wheel", "--outdir", folder, project];
  capture(program, args);
  const wheels = fs.readdirSync(folder).filter((name) => name.endsWith(".whl"));
  if (wheels.length !== 1) throw new Error(`The build made ${wheels.length} wheels, not one.`);
  return path.join(folder, wheels[0]);
}

function exportRequirements(poetry, file) {
  capture(poetry, ["-m", "poetry", "--no-interaction", "--project", project, "export", "--output", file]);
}

/** Copy pip's wheel from the user's cache, which asks the index once for each version; its hash is checked again later. */
function fetchPip(python, folder) {
  const requirements = path.join(__dirname, "requirements-pip.txt");
  const cache = path.join(process.env.XDG_CACHE_HOME || path.join(os.homedir(), ".cache"), "mcp-server-jupyter");
  const kept = path.join(cache, `pip-${sha256(requirements).slice(0, 12)}`);
  if (!fs.existsSync(kept)) {
    fs.mkdirSync(cache, { recursive: true });
    const made = fs.mkdtempSync(`${kept}.new-`);
    const exact = ["--no-deps", "--require-hashes", "--only-binary=:all:", "--quiet", "--disable-pip-version-check"];
    capture(python, ["-m", "pip", "download", ...exact, "--dest", made, "--requirement", requirements]);
    try {
      fs.renameSync(made, kept);
    } catch (error) {
      fs.rmSync(made, { recursive: true });
      if (!fs.existsSync(kept)) throw error; // else another build was first
    }
  }
  fs.cpSync(kept, folder, { recursive: true });
}

function capture(program, args) {
  const unwanted = ["VIRTUAL_ENV", "PYTHONPATH", "PYTHONHOME", "POETRY_ACTIVE"];
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !unwanted.includes(name)));
  // Out of the tree: no configuration of a folder that this was called in counts.
  return execFileSync(program, args, { cwd: os.tmpdir(), env, encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] }).trim();
}

function sha256(file) {
  return createHash("sha256").update(fs.readFileSync(file)).digest("hex");
}

function hasWheel() {
  return fs.existsSync(target) && fs.readdirSync(target).some((name) => name.endsWith(".whl"));
}

if (require.main === module && !(process.argv.includes("--if-missing") && hasWheel())) {
  console.error(`Bundled ${path.relative(extension, bundle())}.`);
}
