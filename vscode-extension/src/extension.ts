import type * as vscode from "vscode";

export function activate(context: vscode.ExtensionContext): void {
  // Wiring only: what is set up here ends with its disposable.
  context.subscriptions.push();
}
