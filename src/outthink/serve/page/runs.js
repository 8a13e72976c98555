// The searches on the page: one, or two side by side; each follows its solve and can be cancelled, saved and linked to.

import { $, button, el, many, percent, seconds } from "./show/dom.js";
import { View } from "./show/view.js";
import { call, follow, save } from "./api.js";

const QUIET = 2000; // milliseconds between two announcements of the best answer so far
const STATES = { queued: "waiting for a place", running: "thinking", done: "done", failed: "failed", cancelled: "cancelled" };
const shown = [];

export const live = () => shown.filter((run) => !run.over);

export function announce(text) {
  $("announcer").textContent = text;
}

/** Show the solves of these ids instead of what is there. Resolves to their last states when all are over. */
export async function showRuns(ids) {
  for (const run of shown.splice(0)) run.leave();
  $("runs").replaceChildren();
  $("runs").classList.toggle("two", ids.length > 1);
  $("hint").hidden = ids.length > 0;
  shown.push(...ids.map((id) => new Run(id)));
  return Promise.all(shown.map((run) => run.watch()));
}

/** Cancel all that still think. */
export const cancelAll = () => Promise.all(live().map((run) => run.cancel()));

export const clearFilters = () => shown.forEach((run) => run.view.tree && run.view.clear());

class Run {
  constructor(id) {
    this.id = id;
    this.over = false;
    this.said = 0;
    this.left = new AbortController();
    this.title = el("h2", "title", "…");
    this.state = el("span", "state", "");
    this.stop = button("", "Cancel", () => this.cancel());
    this.saves = [button("", "JSON", () => this.saveJson()), button("", "HTML", () => this.savePage()), button("", "Copy link", () => this.copyLink())];
    for (const [index, label] of ["Save as JSON", "Save the tree as a page of its own", "Copy a link to this solve"].entries()) this.saves[index].setAttribute("aria-label", `${this.saves[index].textContent}: ${label}`);
    this.trouble = el("p", "trouble");
    this.trouble.hidden = true;
    const host = el("div", "");
    this.host = el("section", "run", el("div", "run-head", this.title, this.state, el("span", "run-actions", this.stop, ...this.saves)), this.trouble, host);
    this.view = new View(host);
    host.hidden = true;
    this.body = host;
    $("runs").append(this.host);
    for (const save of this.saves.slice(0, 2)) save.disabled = true;
  }

  async watch() {
    let last = null;
    try {
      for await (const news of follow(this.id, this.left.signal)) {
        if (news.lost) this.tell("connection lost; trying again");
        else this.update((last = news));
      }
    } catch (error) {
      if (!this.left.signal.aborted) this.complain(error.status === 404 ? "This solve is not on this server, or it is another key's." : error.message);
    }
    this.over = true;
    this.stop.hidden = true;
    return last;
  }

  update(news) {
    const { view, thinking } = news;
    this.news = news;
    const name = `${thinking.strategy ?? "majority-vote"}${thinking.verifier ? ` · ${thinking.verifier}` : ""}`;
    this.title.textContent = name;
    this.host.setAttribute("aria-label", name);
    this.tell(STATES[news.status] ?? news.status, news.status);
    this.over = !["queued", "running"].includes(news.status);
    this.stop.hidden = this.over;
    if (news.error) this.complain(news.error.message);
    for (const save of this.saves.slice(0, 2)) save.disabled = news.status !== "done";
    if (view) {
      this.body.hidden = false;
      this.view.update(view);
    } else if (this.over && this.body.hidden && !news.error) {
      this.complain("This solve was cancelled before it had anything to show.");
    }
    this.say(news, name);
  }

  say({ status, view, error }, name) {
    const now = performance.now(), best = view?.best ?? null;
    if (status !== this.status) {
      if (status === "done") announce(best === null ? `${name}: done, no answer` : `${name}: done. Answer ${best}, confidence ${percent(view.confidence)}, ${many(view.bill.tokens, "token")} in ${seconds(view.bill.seconds)} seconds`);
      else announce(`${name}: ${error ? error.message : STATES[status] ?? status}`);
      this.said = now;
    } else if (!this.over && best !== this.best && best !== null && now - this.said > QUIET) {
      announce(`${name}: so far ${best}`);
      this.said = now;
    } else {
      return;
    }
    this.status = status;
    this.best = best;
  }

  tell(text, status = "running") {
    this.state.textContent = text;
    this.state.className = `state ${status}`;
  }

  complain(text) {
    this.trouble.textContent = text;
    this.trouble.hidden = false;
  }

  async cancel() {
    this.stop.disabled = true;
    try {
      await call(`v1/solves/${this.id}/cancel`, { method: "POST" });
    } catch (error) {
      this.complain(error.message);
      this.stop.disabled = false;
    }
  }

  /** Stop following; the solve goes on. */
  leave() {
    this.left.abort();
  }

  async saveJson() {
    save(`${this.id}.json`, "application/json", await (await call(`v1/solves/${this.id}?tree=true`)).text());
  }

  async savePage() {
    save(`${this.id}.html`, "text/html", await (await call(`v1/solves/${this.id}/tree.html`)).text());
  }

  async copyLink() {
    const link = `${location.origin}${location.pathname}#${this.id}`;
    try {
      await navigator.clipboard.writeText(link);
      announce("Link copied");
      this.saves[2].textContent = "Copied";
      setTimeout(() => { this.saves[2].textContent = "Copy link"; }, 1500);
    } catch {
      prompt("The link to this solve:", link); // a browser may refuse the clipboard
    }
  }
}
