/** A client's name without its id: `claude-code#3f2a` is claude-code; whoever uses the editor is `user`. */
export function authorName(author: string): string {
  return author.replace(/#[^#]*$/, "");
}

/** Whether it was a person, in this window or another. */
export function isPerson(author: string): boolean {
  return authorName(author) === "user";
}

/** Seconds as people write them. */
export function duration(seconds: number): string {
  if (seconds < 10) return `${seconds.toFixed(1)} s`;
  if (seconds < 120) return `${String(Math.round(seconds))} s`;
  return `${String(Math.floor(seconds / 60))} min`;
}

/** The first line that says something, cut to a length. */
export function firstLine(text: string, most = 60): string {
  const line = text.split("\n").find((one) => one.trim() !== "")?.trim() ?? "";
  return line.length > most ? `${line.slice(0, most - 1)}…` : line;
}
