import { fileURLToPath } from "node:url";
import { defineConfig } from "vitest/config";

export default defineConfig({
  resolve: { alias: { vscode: fileURLToPath(new URL("test/vscode.ts", import.meta.url)) } },
  test: {
    include: ["test/**/*.test.ts"],
    // Two cores and real files: what hangs is ended, what is slow is not.
    testTimeout: 20_000,
    restoreMocks: true,
  },
});
