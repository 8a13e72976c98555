// Talking to the server: the key that it may ask for, its errors, and solves that are followed through dropped connections.

import { $ } from "./show/dom.js";

const KEY = "outthink-key";
const OVER = ["done", "failed", "cancelled"];
const RETRY = [500, 1000, 2000, 5000]; // milliseconds between attempts to get a lost connection back
let asking = null;

export const hasKey = () => sessionStorage.getItem(KEY) !== null;

/** A request. Asks for a key where the server wants one. Throws an Error with the server's own words. */
export async function call(path, options = {}) {
  for (;;) {
    const sent = sessionStorage.getItem(KEY), headers = { ...(options.body ? { "Content-Type": "application/json" } : {}), ...(sent ? { Authorization: `Bearer ${sent}` } : {}) };
    // Without credentials a browser does not put up a dialog of its own at a 401.
    const answer = await fetch(path, { ...options, headers, credentials: "omit", cache: "no-store" });
    if (answer.ok) return answer;
    if (answer.status === 401) {
      if (sessionStorage.getItem(KEY) === sent) await askForKey(sent !== null);
      continue;
    }
    const body = await answer.json().catch(() => null);
    throw Object.assign(new Error(body?.error?.message ?? `The server answered ${answer.status}.`), { status: answer.status });
  }
}

export const json = async (path, options) => (await call(path, options)).json();

/** Let the reader type a key; one dialog at a time, however many requests wait for it. */
export function askForKey(refused = false) {
  asking ??= new Promise((resolve, reject) => {
    const dialog = $("key-dialog");
    $("key-wrong").hidden = !refused;
    $("key").value = "";
    const done = () => {
      asking = null;
      $("enter-key").hidden = false;
    };
    $("key-form").onsubmit = () => {
      sessionStorage.setItem(KEY, $("key").value.trim());
      done();
      resolve();
    };
    $("key-not").onclick = () => dialog.close();
    dialog.onclose = () => {
      if (!asking) return;
      done();
      reject(Object.assign(new Error("This server needs an API key: enter it by the button at the top."), { status: 401 }));
    };
    dialog.showModal();
  });
  return asking;
}

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
