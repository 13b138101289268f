// `package.js DIST`: the server's wheel, the universal .vsix, which installs what the server needs from the user's
// package index, and, without `--universal`, this platform's, which carries it for Python 3.11 to 3.14. The same tree gives the same bytes,
// wherever it lies: contents, names, one fixed time and fixed modes are all that goes in.
"use strict";

const { execFileSync } = require("node:child_process");
const fs = require("node:fs");
const os = require("node:os");
const path = require("node:path");
const { createVSIX, listFiles, PackageManager } = require("@vscode/vsce");

const extension = path.resolve(__dirname, "..");
const repository = path.resolve(extension, "..");
const project = path.join(repository, "tools/mcp-server-jupyter");
const bundled = "python_server";

const MEGABYTE = 1_000_000;
const LIMITS = { universal: 3 * MEGABYTE, platform: 80 * MEGABYTE };

/** What a .vsix has besides its manifest comes at this time: 1980, the first that a zip file can tell. */
const EPOCH = "315532800";

/** @param {string} dist where the packages go @param {{target?: string | null, log?: (text: string) => void}} options */
async function buildPackages(dist, { target = platform(), log = console.error } = {}) {
  process.env.SOURCE_DATE_EPOCH ??= EPOCH;
  process.env.TZ = "UTC"; // a zip file tells local time
  fs.mkdirSync(dist, { recursive: true });
  execFileSync("npm", ["run", "--silent", "bundle-python"], { cwd: extension, stdio: ["ignore", "inherit", "inherit"] });
  execFileSync("npm", ["run", "--silent", "vscode:prepublish"], { cwd: extension, stdio: ["ignore", "inherit", "inherit"] });
  const stage = fs.mkdtempSync(path.join(os.tmpdir(), "vsix-"));
  try {
    await fill(stage);
    const wheel = fs.readdirSync(path.join(stage, bundled)).find((name) => name.endsWith(".whl"));
    fs.copyFileSync(path.join(stage, bundled, wheel), path.join(dist, wheel));
    const made = [path.join(dist, wheel), await pack(stage, dist, undefined, LIMITS.universal)];
    if (target) {
      addWheelhouse(stage);
      made.push(await pack(stage, dist, target, LIMITS.platform));
    }
    for (const file of made) log(`${path.relative(process.cwd(), file)}  ${(fs.statSync(file).size / MEGABYTE).toFixed(2)} MB`);
    return made;
  } finally {
    fs.rmSync(stage, { recursive: true, force: true });
  }
}

/** Copy what is packaged, with what the repository has once for all its parts. */
async function fill(stage) {
  const files = await listFiles({ cwd: extension, packageManager: PackageManager.None });
  for (const file of files) copy(path.join(extension, file), path.join(stage, file));
  for (const file of ["LICENSE", "CHANGELOG.md"]) copy(path.join(repository, file), path.join(stage, file));
  const manifest = JSON.parse(fs.readFileSync(path.join(extension, "package.json"), "utf8"));
  delete manifest.scripts; // they have run
  delete manifest.devDependencies;
  delete manifest.private;
  fs.writeFileSync(path.join(stage, "package.json"), `${JSON.stringify(manifest, null, 2)}\n`, { mode: 0o644 });
  fs.writeFileSync(path.join(stage, ".vscodeignore"), "");
}

function copy(from, to) {
  fs.mkdirSync(path.dirname(to), { recursive: true });
  fs.copyFileSync(from, to);
  fs.chmodSync(to, 0o644); // not the umask of whoever checked it out
}

/** The wheels of what the server needs, for this platform, by the hashes of the lock. */
function addWheelhouse(stage) {
  const python = capture(path.join(project, "scripts/find-python"), []);
  const poetry = capture(python, [path.join(project, "scripts/bootstrap.py"), "poetry"]);
  const house = path.join(stage, bundled, "wheelhouse");
  execFileSync(poetry, [path.join(project, "scripts/wheelhouse.py"), path.join(stage, bundled, "requirements.txt"), house], {
    stdio: ["ignore", "inherit", "inherit"],
  });
  for (const name of fs.readdirSync(house)) fs.chmodSync(path.join(house, name), 0o644);
}

async function pack(stage, dist, target, limit) {
  const { name, version } = JSON.parse(fs.readFileSync(path.join(stage, "package.json"), "utf8"));
  const packagePath = path.join(dist, `${name}-${target ? `${target}-` : ""}${version}.vsix`);
  await createVSIX({
    cwd: stage,
    packagePath,
    target,
    dependencies: false,
    allowMissingRepository: true,
    rewriteRelativeLinks: false,
  });
  const size = fs.statSync(packagePath).size;
  if (size > limit) throw new Error(`${packagePath} has ${size} bytes, more than ${limit}.`);
  return packagePath;
}

/** VS Code's name of this platform; null where local kernels do not run. */
function platform() {
  if (process.platform === "win32") return null;
  const isMusl = process.platform === "linux" && !process.report.getReport().header.glibcVersionRuntime;
  return `${isMusl ? "alpine" : process.platform}-${process.arch === "arm" ? "armhf" : process.arch}`;
}

function capture(program, args) {
  return execFileSync(program, args, { encoding: "utf8", stdio: ["ignore", "pipe", "inherit"] }).trim();
}

module.exports = { buildPackages, platform };

if (require.main === module) {
  const [dist = path.join(repository, "dist")] = process.argv.slice(2).filter((arg) => !arg.startsWith("--"));
  buildPackages(path.resolve(dist), process.argv.includes("--universal") ? { target: null } : {}).catch((error) => {
    console.error(error.message);
    process.exitCode = 1;
  });
}
