// How the server does: throughput, cache, pages and queue, and the solves that run, each with a way to end it.

import { $, button, el, grouped, many, percent, shorten, svg } from "./show/dom.js";

const SPAN = 300, LEAST = 60; // readings that the chart holds, and those that it has room for at first
const readings = [];
let before = null;

/** Take a reading of the server into the gauges and the chart. */
export function showStatus(found) {
  const now = performance.now() / 1000;
  if (before) readings.push(Math.max(0, (found.decoded_tokens - before.decoded_tokens) / (now - before.now)));
  if (readings.length > SPAN) readings.shift();
  before = { decoded_tokens: found.decoded_tokens, now };
  const share = (part, whole) => (whole ? percent(part / whole) : "–");
  const held = Math.round(found.kv_cache_usage_perc * found.pages);
  const gauges = [
    ["tokens/s now", grouped(readings.at(-1) ?? 0), `${grouped(found.decoded_tokens)} sampled in all`],
    ["prompt tokens from the cache", share(found.prefix_cache_hits, found.prefix_cache_queries), `${grouped(found.prefix_cache_hits)} of ${grouped(found.prefix_cache_queries)}`],
    ["pages held by branches", percent(found.kv_cache_usage_perc), `${grouped(held)} of ${grouped(found.pages)}; 16 positions each`],
    ["branches in the batch", grouped(found.num_sequences_running), `${grouped(found.num_sequences_waiting)} wait for pages`],
    ["solves", grouped(found.solves), `at most ${found.max_jobs} think at once`],
    ["requests worked on", grouped(found.requests_running), `${grouped(found.requests_waiting)} in the queue`],
    ["preemptions", grouped(found.num_preemptions), `${grouped(found.recomputed_tokens)} positions computed again`],
    ["up for", span(found.uptime), found.model],
  ];
  $("gauges").replaceChildren(...gauges.map(([name, value, note]) => el("div", "gauge-card card", el("span", "", name), el("b", "", value), el("small", "", note))));
  drawRate();
}

function span(length) {
  const parts = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].find(([unit]) => length >= unit) ?? [1, "s"];
  return `${Math.floor(length / parts[0])} ${parts[1]}`;
}

function drawRate() {
  const width = Math.max(260, $("rate").clientWidth), height = 130, top = Math.max(1, ...readings), mean = readings.reduce((a, b) => a + b, 0) / Math.max(1, readings.length);
  const x = (index) => width - ((readings.length - 1 - index) * width) / (Math.max(LEAST, readings.length) - 1), y = (rate) => height - 6 - ((height - 24) * rate) / top;
  const points = readings.map((rate, index) => `${x(index).toFixed(1)},${y(rate).toFixed(1)}`);
  const label = `Now ${grouped(readings.at(-1) ?? 0)}, at most ${grouped(Math.max(0, ...readings))}, on average ${grouped(mean)} tokens a second`;
  const picture = svg("svg", { width: "100%", height, viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label });
  if (points.length) {
    picture.append(svg("polygon", { points: `${x(0)},${height} ${points.join(" ")} ${width},${height}`, class: "area" }), svg("polyline", { points: points.join(" "), class: "line" }));
    picture.append(svg("line", { x1: 0, x2: width, y1: y(top), y2: y(top), class: "grid" }), svg("text", { x: 4, y: y(top) - 5 }, grouped(Math.max(0, ...readings))));
  }
  $("rate").replaceChildren(picture);
  $("rate-note").textContent = readings.length ? `the last ${Math.round(readings.length)} readings; on average ${grouped(mean)}` : "";
}

/** List the solves of this client that are not over. */
export function showRunning(jobs, cancel) {
  const running = jobs.filter((job) => ["queued", "running"].includes(job.status));
  if (!running.length) {
    $("running").replaceChildren(el("p", "hint", "Nothing is being thought about."));
    return;
  }
  const focused = document.activeElement?.dataset?.cancels;
  $("running").replaceChildren(el("ul", "solves", ...running.map((job) => {
    const link = el("a", "asked", shorten(job.problem, 120)), { progress } = job;
    link.href = `#${job.id}`;
    const stop = button("", "Cancel", () => cancel(job.id));
    stop.setAttribute("aria-label", `Cancel: ${shorten(job.problem, 60)}`);
    stop.dataset.cancels = job.id;
    const facts = progress ? `${percent(progress.fraction_spent)} of the budget, ${many(progress.tokens, "token")}, ${many(progress.branches, "branch", "branches")}` : "waiting for a place";
    return el("li", "running", link, stop, el("span", "facts", `${job.thinking.strategy ?? "majority-vote"} · ${facts}`));
  })));
  if (focused) document.querySelector(`[data-cancels="${CSS.escape(focused)}"]`)?.focus();
}
