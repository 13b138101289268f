// One minified bundle, dist/extension.js: only `vscode` itself stays outside. `--watch` builds again at every change.
import { context } from "esbuild";
import path from "node:path";
import { fileURLToPath } from "node:url";

/** @type {import("esbuild").BuildOptions} */
export const options = {
  absWorkingDir: fileURLToPath(new URL("..", import.meta.url)),
  entryPoints: ["src/extension.ts"],
  outfile: "dist/extension.js",
  bundle: true,
  platform: "node",
  format: "cjs",
  target: "node22", // what VS Code 1.105 runs extensions with
  external: ["vscode"],
  minify: true,
  legalComments: "none",
  logLevel: "warning",
};

if (process.argv[1] && path.resolve(process.argv[1]) === fileURLToPath(import.meta.url)) {
  const watch = process.argv.includes("--watch");
  const bundler = await context(watch ? { ...options, minify: false, sourcemap: "linked", logLevel: "info" } : options);
  if (watch) {
    await bundler.watch();
  } else {
    await bundler.rebuild();
    await bundler.dispose();
  }
}
