import { readFileSync } from "node:fs";
import { expect, test } from "vitest";

interface Manifest {
  version: string;
  engines: { vscode: string };
  devDependencies: Record<string, string>;
}

const manifest = JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as Manifest;

test("the types are those of the oldest editor that is supported", () => {
  expect(manifest.engines.vscode).toBe(`^${manifest.devDependencies["@types/vscode"] ?? ""}`);
});
