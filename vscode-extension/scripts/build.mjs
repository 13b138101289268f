// One minified bundle, dist/extension.js: only `vscode` itself stays outside. `--watch` builds again at every change.
import { context } from "esbuild";
import { fileURLToPath } from "node:url";

const root = fileURLToPath(new URL("..", import.meta.url));
const watch = process.argv.includes("--watch");

const bundler = await context({
  absWorkingDir: root,
  entryPoints: ["src/extension.ts"],
  outfile: "dist/extension.js",
  bundle: true,
  platform: "node",
  format: "cjs",
  target: "node22", // what VS Code 1.105 runs extensions with
  external: ["vscode"],
  minify: !watch,
  sourcemap: watch ? "linked" : false,
  legalComments: "none",
  logLevel: "info",
});

if (watch) {
  await bundler.watch();
} else {
  await bundler.rebuild();
  await bundler.dispose();
}
