import * as vscode from "vscode";

interface Manifest {
  readonly contributes: { readonly walkthroughs: readonly { readonly id: string; readonly steps: readonly { readonly id: string }[] }[] };
}

const LOOKS = 30;
const PAUSE = 100;

/** Open a step of the extension's walkthrough. */
export async function openWalkthrough({ id, packageJSON }: vscode.Extension<unknown>, step: string): Promise<void> {
  const [walkthrough] = (packageJSON as Manifest).contributes.walkthroughs;
  if (walkthrough === undefined) return;
  const category = `${id}#${walkthrough.id}`;
  await known(`${category}#${walkthrough.steps.at(-1)?.id ?? ""}`);
  await vscode.commands.executeCommand("workbench.action.openWalkthrough", { category, step });
}

/**
 * Wait until the editor knows a step, at most three seconds.
 *
 * It reads extensions' walkthroughs only once something asks for one, and shows its own page, for good, for one that it
 * has not read yet. To mark a step as not done asks for it, shows nothing, and is refused while it is not known.
 */
async function known(step: string): Promise<void> {
  for (let looks = 0; looks < LOOKS; looks++) {
    try {
      await vscode.commands.executeCommand("welcome.markStepIncomplete", step);
      return;
    } catch {
      await new Promise((resolve) => setTimeout(resolve, PAUSE));
    }
  }
}
