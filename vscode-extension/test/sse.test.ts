import { expect, test } from "vitest";
import { SseParser } from "../src/server/sse";

const STREAM = 'retry: 500\n\n: still here\n\nid: s-1\nevent: kernel\ndata: {"a":\ndata: 1}\n\nid: s-2\r\ndata: plain\r\n\r\n';

test("a stream is read the same however it is cut", () => {
  const whole = new SseParser().push(STREAM);
  expect(whole).toEqual([
    { id: "s-1", event: "kernel", data: '{"a":\n1}' },
    { id: "s-2", event: "message", data: "plain" },
  ]);
  const parser = new SseParser();
  expect(Array.from(STREAM, (piece) => parser.push(piece)).flat()).toEqual(whole);
  expect(parser.retry).toBe(500);
});

test("an event that is not finished is not told", () => {
  expect(new SseParser().push("data: half\n")).toEqual([]);
});
