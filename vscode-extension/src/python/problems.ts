import * as vscode from "vscode";
import { Problem, words } from "../errors";
import { BrokenBundle } from "./bundle";
import { OLDEST, type Search } from "./find";
import { SetupFailed, type Step } from "./venv";

const { t } = vscode.l10n;
export const REPAIR = { title: t("Set Up / Repair"), command: "mcp-server-jupyter.setUp" };
const SHOW_LOG = { title: t("Show Log"), command: "mcp-server-jupyter.showLog" };

/**
 * Why the server is not set up where this Python search found none: one sentence and the button that helps.
 *
 * @param set the setting python.path; "" when it is not set.
 */
export function noPython({ rejected }: Search, set: string): Problem {
  const oldest = OLDEST.join(".");
  const setting = { title: t("Choose Python…"), command: "workbench.action.openSettings", args: ["mcp-server-jupyter.python.path"] };
  if (set !== "") return new Problem(t("The Python in the setting python.path cannot be used: {0}. The server needs Python {1} or newer.", set, oldest), setting);
  const old = rejected.find(({ why }) => why === "old");
  if (old !== undefined) return new Problem(t("The server needs Python {0} or newer; the newest here is {1}.", oldest, old.version ?? ""), setting);
  return new Problem(t("There is no Python here. Install Python {0} or newer (python.org, your system's packages, or uv), or say where it is.", oldest), setting);
}

/** Why a set-up failed: one sentence and the button that helps. */
export function described(error: unknown): Problem {
  if (error instanceof BrokenBundle) {
    return new Problem(t("The extension's files are not complete: {0} Install it again.", error.message), { title: t("Show Extension"), command: "workbench.extensions.search", args: ["@installed Jupyter with Agents"] }, { cause: error });
  }
  if (!(error instanceof SetupFailed)) return new Problem(t("Setting up the server failed: {0}", words(error)), SHOW_LOG, { cause: error });
  switch (error.kind) {
    case "disk-full":
      return new Problem(t("The disk is full: the server needs 120 MB at {0}. Make room, then set up again.", error.details), REPAIR, { cause: error });
    case "index":
      return new Problem(t("The package index did not give what the server needs: {0} Where there is no index, install the extension's package for this platform, which brings everything.", error.details), REPAIR, { cause: error });
    case "offline":
      return new Problem(t("This package of the extension has no wheels for the Python found ({0}), and install.source forbids an index.", error.details), { title: t("Open Settings"), command: "workbench.action.openSettings", args: ["mcp-server-jupyter.install.source"] }, { cause: error });
    case "venv":
      return new Problem(t("This Python makes no virtual environment: {0}", error.details), SHOW_LOG, { cause: error });
    case "broken":
    case "check":
      return new Problem(t("The server was installed but does not start: {0}", error.details), SHOW_LOG, { cause: error });
  }
}

/**
 * Windows has no local kernels; an untrusted folder gets nothing installed.
 *
 * @throws Problem with what to do instead.
 */
export function refuseWhereNothingRuns(platform: NodeJS.Platform, isTrusted: boolean): void {
  if (platform === "win32") {
    throw new Problem(t("Kernels do not run on Windows itself. Open the folder in WSL or on a remote machine, where the extension works as usual."), {
      title: t("Open in WSL"), command: "workbench.extensions.search", args: ["ms-vscode-remote.remote-wsl"],
    });
  }
  if (!isTrusted) {
    throw new Problem(t("This folder is not trusted: notebooks can be read, nothing is installed or run."), { title: t("Manage Trust"), command: "workbench.trust.manage" });
  }
}

/** What a set-up is doing, for people. */
export function stepWords(step: Step): string {
  switch (step.name) {
    case "waiting":
      return t("waiting for another window");
    case "environment":
      return t("making an environment of its own");
    case "packages":
      return step.count === undefined ? t("installing the server") : t("installing the server ({0} of {1} packages)", step.count.done, step.count.of);
    case "check":
      return t("trying it");
  }
}
