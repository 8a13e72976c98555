// Talking to the server: its errors, and solves that are followed through dropped connections.

import { $ } from "./show/dom.js";

const OVER = ["done", "failed", "cancelled"];
const RETRY = [500, 1000, 2000, 5000]; // milliseconds between attempts to get a lost connection back

/** A request. A key, where the server wants one, is the browser's to ask for and to send. Throws an Error with the server's own words. */
export async function call(path, options = {}) {
  const headers = options.body ? { "Content-Type": "application/json" } : {};
  const answer = await fetch(path, { ...options, headers, cache: "no-store" });
  if (answer.ok) return answer;
  const body = await answer.json().catch(() => null);
  throw Object.assign(new Error(body?.error?.message ?? `The server answered ${answer.status}.`), { status: answer.status });
}

export const json = async (path, options) => (await call(path, options)).json();

/** Each state of a solve until it is over; a connection that breaks is made again, for the solve goes on meanwhile. */
export async function* follow(id, signal) {
  for (let lost = 0; ; ) {
    try {
      for await (const news of events(`api/solves/${id}/view`, signal)) {
        lost = 0;
        yield news;
        if (OVER.includes(news.status)) return;
      }
      lost++;
    } catch (error) {
      if (signal.aborted || (error.status && error.status < 500)) throw error;
      lost++;
    }
    yield { id, lost };
    await new Promise((resolve) => setTimeout(resolve, RETRY[Math.min(lost, RETRY.length) - 1]));
  }
}

async function* events(path, signal) {
  const reader = (await call(path, { signal })).body.pipeThrough(new TextDecoderStream()).getReader();
  try {
    for (let held = ""; ; ) {
      const { value, done } = await reader.read();
      if (done) return;
      const pieces = (held + value).split("\n\n");
      held = pieces.pop();
      for (const piece of pieces) {
        const data = piece.replace(/^data: /, "");
        if (data === "[DONE]") return;
        const news = JSON.parse(data);
        if (news.error && !news.id) throw Object.assign(new Error(news.error.message), { status: 500 });
        yield news;
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/** Have the browser keep `text` as a file. */
export function save(name, type, text) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([text], { type }));
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
