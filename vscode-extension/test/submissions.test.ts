import { expect, test } from "vitest";
import { Cancelled } from "../src/errors";
import { joins, Submissions } from "../src/notebook/submissions";
import { Refused } from "../src/server/client";

function gate(): { readonly open: () => void; readonly opened: Promise<void> } {
  let open = (): void => undefined;
  const opened = new Promise<void>((resolve) => (open = resolve));
  return { open, opened };
}

test("what is asked for is done in the order of asking", async () => {
  const submissions = new Submissions("Cancelled.");
  const [first, did] = [gate(), [] as string[]];
  const all = [
    submissions.do(async () => {
      await first.opened;
      did.push("first");
    }),
    submissions.do(() => {
      did.push("second");
      return Promise.resolve();
    }),
  ];
  first.open();
  await Promise.all(all);
  expect(did).toEqual(["first", "second"]);
  expect(submissions.stop()).toBe(false);
});

test("what is stopped while it waits ends at once, and what comes after it in line is never begun", async () => {
  const submissions = new Submissions("Cancelled.");
  const [kernel, did] = [gate(), [] as string[]];
  const running = submissions.do(async (signal) => {
    await kernel.opened;
    signal.throwIfAborted();
    did.push("submitted");
  });
  const next = submissions.do(() => {
    did.push("next");
    return Promise.resolve();
  });
  expect(submissions.stop()).toBe(true);
  await expect(running).rejects.toBeInstanceOf(Cancelled);
  await expect(next).rejects.toBeInstanceOf(Cancelled);
  kernel.open();
  await submissions.do(() => Promise.resolve());
  expect(did).toEqual([]);
  expect(submissions.stop()).toBe(false);
});

test("one that fails stops none that comes after it", async () => {
  const submissions = new Submissions("Cancelled.");
  await expect(submissions.do(() => Promise.reject(new Error("no server")))).rejects.toThrow("no server");
  await submissions.do(() => Promise.resolve());
});

test("a kernel that starts is asked again until it is there, and nothing is asked for after a stop", async () => {
  let asked = 0;
  const starting = async (): Promise<string> => Promise.reject(new Refused(503, "kernel_starting", `look ${String(++asked)}`, null));
  const told: string[] = [];
  const ask = async (): Promise<string> => (asked < 2 ? starting() : Promise.resolve("it runs"));
  expect(await joins(ask, new AbortController().signal, { isEnough: () => false, report: (words) => told.push(words) })).toEqual({ answer: "it runs" });
  expect(told).toEqual(["look 1", "look 2"]);
  expect(await joins(starting, new AbortController().signal, { isEnough: () => true })).toBeUndefined();
  const stop = new AbortController();
  const before = asked;
  const joined = joins(async () => {
    stop.abort(new Cancelled("Cancelled."));
    return starting();
  }, stop.signal, { isEnough: () => false });
  await expect(joined).rejects.toThrow(Cancelled);
  expect(asked).toBe(before + 1);
  await expect(joins(async () => Promise.reject(new Refused(410, "kernel_dead", "dead", null)), new AbortController().signal, { isEnough: () => false })).rejects.toThrow("dead");
});
