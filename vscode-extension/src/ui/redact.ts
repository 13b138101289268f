import { homedir, userInfo } from "node:os";

/**
 * A text that may be shown to others: no tokens, no names of users, folders or hosts beyond this machine.
 *
 * @param names what is known to be the person's own, folders and notebooks, and what stands for it.
 */
export function redact(text: string, names: ReadonlyMap<string, string>, home = homedir(), user = userInfo().username): string {
  let safe = text;
  const longestFirst = [...names].sort(([one], [other]) => other.length - one.length);
  for (const [name, stand] of longestFirst) if (name !== "") safe = safe.replaceAll(name, stand);
  if (home !== "" && home !== "/") safe = safe.replaceAll(home, "~");
  if (user.length > 2) safe = safe.replace(new RegExp(`(?<=[/\\\\])${escaped(user)}(?=[/\\\\]|$)`, "gm"), "[user]");
  return safe
    .replace(/\b(bearer|basic|token)\s+[\w.~+/=-]{6,}/gi, "$1 [hidden]")
    .replace(/\b(bearer|token|password|passwd|secret|api[_-]?key|authorization)(["']?\s*[:=]\s*["']?|\s+)(?!\[)[^\s"',;&]{6,}/gi, "$1$2[hidden]")
    .replace(/(\w+:\/\/)[^\s/@]+@/g, "$1[hidden]@")
    .replace(/(https?:\/\/(?:\[hidden\]@)?)(?!127\.0\.0\.1|localhost|\[)[^\s/"'<>)]+/g, "$1[host]");
}

function escaped(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");
}
