import * as vscode from "vscode";

interface Manifest {
  readonly contributes: { readonly walkthroughs: readonly { readonly id: string; readonly title: string }[] };
}

const ATTEMPTS = 2;
const LOOKS = 12;
const PAUSE = 100;

/**
 * Open a step of the extension's walkthrough.
 *
 * The editor reads extensions' walkthroughs only once its welcome page is first asked for, and shows that page itself
 * meanwhile, for good: then it is closed and opened again.
 */
export async function openWalkthrough({ id, packageJSON }: vscode.Extension<unknown>, step: string): Promise<void> {
  const [walkthrough] = (packageJSON as Manifest).contributes.walkthroughs;
  if (walkthrough === undefined) return;
  const { tabGroups } = vscode.window;
  for (let attempt = 1; attempt <= ATTEMPTS; attempt++) {
    const before = tabGroups.activeTabGroup.activeTab;
    await vscode.commands.executeCommand("workbench.action.openWalkthrough", { category: `${id}#${walkthrough.id}`, step });
    const shown = await shownTab(walkthrough.title);
    if (shown === undefined || shown.label.includes(walkthrough.title) || attempt === ATTEMPTS) return;
    // Of a page of its own the editor tells no input. One that was there before is the person's.
    if (shown !== before && shown.input === undefined) await tabGroups.close(shown);
  }
}

/** The tab at hand, once its label has this text or a moment has passed. */
async function shownTab(title: string): Promise<vscode.Tab | undefined> {
  for (let looks = 0; looks < LOOKS; looks++) {
    const tab = vscode.window.tabGroups.activeTabGroup.activeTab;
    if (tab?.label.includes(title) === true) return tab;
    await new Promise((resolve) => setTimeout(resolve, PAUSE));
  }
  return vscode.window.tabGroups.activeTabGroup.activeTab;
}
