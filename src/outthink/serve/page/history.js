// The solves of this client, newest first: those of this and of other visits.

import { $, el, grouped, percent, seconds, shorten } from "./show/dom.js";

const times = new Intl.DateTimeFormat(undefined, { dateStyle: "short", timeStyle: "short" });

/** List `jobs`; each leads to its own address on this page. */
export function showHistory(jobs) {
  if (!jobs.length) {
    $("history").replaceChildren(el("p", "hint", "Nothing was asked yet."));
    return;
  }
  $("history").replaceChildren(el("ul", "solves", ...jobs.map(entry)));
}

function entry(job) {
  const { posterior, progress, thinking } = job, link = el("a", "solve", el("span", "asked", shorten(job.problem, 160)));
  link.href = `#${job.id}`;
  const cost = posterior?.cost, facts = [
    thinking.strategy ?? "majority-vote", thinking.verifier,
    cost ? `${grouped(cost.tokens)} tokens` : progress ? `${percent(progress.fraction_spent)} spent` : null,
    cost ? `${seconds(cost.seconds)} s` : null, times.format(new Date(1000 * job.created)),
  ];
  const answer = posterior ? (posterior.best === null ? el("b", "none", "no answer") : el("b", "", shorten(posterior.best, 24), " ", el("small", "", percent(posterior.confidence)))) : el("span", `state ${job.status}`, job.status);
  link.append(el("span", "reached", answer), el("span", "facts", facts.filter(Boolean).join(" · ")));
  return el("li", "", link);
}
