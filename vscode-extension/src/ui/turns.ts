import type { Activity } from "../server/protocol";
import { isPerson } from "./words";

/** One line for each turn of edits; it tells how many there were. */
export function byTurn(activities: readonly Activity[]): { activity: Activity; edits: number }[] {
  const lines: { activity: Activity; edits: number }[] = [];
  const turns = new Map<string, { edits: number }>();
  for (const activity of activities) {
    const turn = activity.kind === "edit" ? activity.turn : null;
    const there = turn === null ? undefined : turns.get(turn);
    if (there !== undefined) {
      there.edits += 1;
      continue;
    }
    const line = { activity, edits: 1 };
    lines.push(line);
    if (turn !== null) turns.set(turn, line);
  }
  return lines;
}

/** The turn of an agent's latest edit that still stands. */
export function lastAgentTurn(activities: readonly Activity[]): { turn: string; author: string } | undefined {
  for (const activity of activities) {
    if (activity.kind !== "edit" || activity.undone || activity.turn === null || isPerson(activity.author)) continue;
    // What an undo did is a turn too, of whoever undid.
    return { turn: activity.turn, author: activity.author };
  }
  return undefined;
}
