// The page: ask, watch, compare, and see how the server does. Every text goes in as a text node, never as markup.

import { colorOf, draw, lineOf, link } from "./tree.js";

const $ = (id) => document.getElementById(id);
const state = { methods: null, status: null, live: [], rates: [] };

function el(tag, cls, ...kids) {
  const made = document.createElement(tag);
  if (cls) made.className = cls;
  made.append(...kids.filter((kid) => kid !== null && kid !== undefined));
  return made;
}
const many = (count, noun) => `${Math.round(count).toLocaleString("en")} ${noun}${Math.round(count) === 1 ? "" : "s"}`;
const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.0995 ? 1 : 0)}%`;

async function call(path, options = {}) {
  const headers = { "Content-Type": "application/json" };
  const answer = await fetch(path, { ...options, headers });
  if (!answer.ok) {
    const body = await answer.json().catch(() => null);
    throw new Error(body?.error?.message ?? `The server answered ${answer.status}.`);
  }
  return answer;
}

function complain(error) {
  $("problem-line").textContent = error.message;
  $("problem-line").hidden = false;
}

// ---- asking ---------------------------------------------------------------------------------------------------------

const budget = () => Math.round(2 ** Number($("budget").value) / 10) * 10;

function showCost() {
  const rate = state.status?.peak_rate;
  const time = rate ? `, about ${(budget() / rate).toPrecision(2)} s at the ${Math.round(rate).toLocaleString("en")} tokens/s seen here` : "";
  $("cost").textContent = `up to ${many(budget(), "token")}${time}`;
}

function showAbout() {
  const chosen = state.methods?.strategies.find((method) => method.name === $("strategy").value);
  $("about").textContent = chosen ? `${chosen.summary} (${chosen.guarantee}; ${chosen.paper})` : "";
}

function fill(select, names, chosen) {
  select.replaceChildren(...names.map((name) => {
    const option = el("option", "", name === "" ? "none" : name);
    option.value = name;
    option.selected = name === chosen;
    return option;
  }));
}

async function begin() {
  const [methods, models] = await Promise.all([call("api/methods"), call("v1/models")]);
  state.methods = await methods.json();
  const model = (await models.json()).data[0];
  $("model").textContent = model.id;
  const names = state.methods.strategies.map((method) => method.name);
  fill($("strategy"), names, "majority-vote");
  fill($("other"), names, "greedy");
  fill($("verifier"), ["", ...state.methods.verifiers], "");
  showAbout();
  await refresh();
  const most = state.status.max_tokens;
  $("budget").max = String(Math.min(18, Math.log2(most)));
  showCost();
  if (!$("problem").value) await sample();
}

async function sample() {
  const found = await (await call("api/problem")).json();
  $("problem").value = found.prompt;
}

async function think(event) {
  event.preventDefault();
  $("problem-line").hidden = true;
  const strategies = [$("strategy").value, ...($("compare").checked ? [$("other").value] : [])];
  $("runs").replaceChildren();
  $("runs").classList.toggle("two", strategies.length > 1);
  $("stop").disabled = false;
  $("go").disabled = true;
  try {
    await Promise.all(strategies.map(run));
  } catch (error) {
    complain(error);
  } finally {
    state.live = [];
    $("stop").disabled = true;
    $("go").disabled = false;
  }
}

async function run(strategy) {
  const view = $("run").content.cloneNode(true).firstElementChild;
  $("runs").append(view);
  const part = (name) => view.querySelector(`.${name}`);
  part("title").textContent = strategy;
  const thinking = { strategy, budget: budget() };
  if ($("verifier").value) thinking.verifier = $("verifier").value;
  const made = await call("v1/solves", { method: "POST", body: JSON.stringify({ problem: $("problem").value, thinking, seed: 1 }) });
  const job = await made.json();
  state.live.push(job.id);
  let last = null;
  for await (const news of events(`v1/solves/${job.id}/events`)) {
    last = news;
    show(view, news);
  }
  const save = part("export");
  save.disabled = false;
  save.addEventListener("click", () => {
    const link = el("a");
    link.href = URL.createObjectURL(new Blob([JSON.stringify(last, null, 1)], { type: "application/json" }));
    link.download = `${job.id}.json`;
    link.click();
    URL.revokeObjectURL(link.href);
  });
}

async function* events(path) {
  const reader = (await call(path)).body.pipeThrough(new TextDecoderStream()).getReader();
  let held = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    held += value;
    const pieces = held.split("\n\n");
    held = pieces.pop();
    for (const piece of pieces) {
      const data = piece.replace(/^data: /, "");
      if (data === "[DONE]") return;
      const news = JSON.parse(data);
      if (news.error && !news.id) throw new Error(news.error.message);
      yield news;
    }
  }
}

// ---- showing --------------------------------------------------------------------------------------------------------

function show(view, news) {
  const part = (name) => view.querySelector(`.${name}`);
  const posterior = news.posterior ?? null;
  if (news.error) {
    part("answer").textContent = "no answer";
    part("sure").textContent = news.error.message;
    return;
  }
  const counts = news.so_far?.answers ?? {};
  const total = Math.max(1, news.so_far?.lines ?? 1);
  const found = posterior ? Object.entries(posterior.weights) : Object.entries(counts).map(([answer, count]) => [answer, count / total]);
  const shares = found.sort((a, b) => b[1] - a[1]); // objects list keys that are whole numbers in their own order
  const order = shares.map(([answer]) => answer);
  part("answer").textContent = (posterior ? posterior.best : news.so_far?.best) ?? (posterior || news.status === "cancelled" ? "no answer" : "…");
  part("sure").textContent = posterior
    ? `confidence ${percent(posterior.confidence)}; ${many(posterior.attempts, "line")}; ${posterior.stopped === "budget" ? "the budget ran out" : posterior.stopped}`
    : news.status === "cancelled" ? "stopped" : `${many(news.so_far?.lines ?? 0, "line")} so far`;
  part("shares").replaceChildren(...shares.slice(0, 6).map(([answer, share]) => {
    const bar = el("i");
    bar.style.width = `${Math.max(1, 100 * share)}%`;
    bar.style.background = colorOf(answer, order);
    return el("div", "share", el("b", "", answer), el("span", "", bar), el("em", "", percent(share)));
  }));
  const tree = posterior?.tree ?? news.tree;
  if (tree) {
    const nodes = link(tree.nodes);
    const winner = draw(part("tree"), nodes, order, posterior !== null, (node) => look(view, node));
    const lines = nodes.filter((node) => node.kids.length === 0).length;
    part("legend").textContent = `${many(nodes.length, "branch").replace("branchs", "branches")}, ${many(lines, "end")}; colour: the answer reached; size: visits or value; faded: given up`;
    if (winner) {
      look(view, winner);
      const box = part("treebox");
      box.scrollTop = winner.y - box.clientHeight / 2;
    }
  }
  const bill = posterior?.cost ?? news.progress;
  if (bill) {
    const seconds = bill.seconds ?? 0;
    part("bill").textContent = `${many(bill.tokens, "token")}, ${seconds.toFixed(2)} s` +
      (bill.flops ? `, ${bill.flops.toExponential(2)} FLOPs` : "") + (bill.verifier_calls ? `, ${many(bill.verifier_calls, "verifier call")}` : "");
  }
  part("meter").firstElementChild.style.width = posterior ? "100%" : percent(news.progress?.fraction_spent ?? 0);
}

function look(view, node) {
  const facts = [["value", node.value], ["weight", node.weight], ["visits", node.visits], ["log-probability", node.log_prob], ["tokens", node.tokens]]
    .filter(([, value]) => value !== null && value !== undefined).map(([name, value]) => `${name} ${Number(value.toPrecision(4))}`);
  const fate = node.fate ?? (node.finish === null ? "" : { stop: "ended", length: "cut at its length", budget: "cut by the budget", cancelled: "cancelled" }[node.finish] ?? node.finish);
  view.querySelector(".detail").replaceChildren(lineOf(node) || "(the question)", el("small", "", [...facts, fate].filter(Boolean).join(" · ")));
}

// ---- status ---------------------------------------------------------------------------------------------------------

async function refresh() {
  const found = await (await call("api/status")).json();
  const now = performance.now() / 1000;
  const before = state.status;
  if (before) {
    const rate = Math.max(0, (found.decoded_tokens - before.decoded_tokens) / (now - before.at));
    state.rates.push(rate);
    if (state.rates.length > 300) state.rates.shift();
  }
  state.status = { ...found, at: now, peak_rate: Math.max(0, ...state.rates) };
  const figures = [
    ["requests running", found.requests_running], ["requests waiting", found.requests_waiting], ["solves", found.solves],
    ["branches in the batch", found.num_sequences_running], ["pages held", percent(found.kv_cache_usage_perc)],
    ["prompt tokens from the cache", found.prefix_cache_queries ? percent(found.prefix_cache_hits / found.prefix_cache_queries) : "–"],
    ["tokens sampled", Math.round(found.decoded_tokens).toLocaleString("en")], ["preemptions", found.num_preemptions],
    ["tokens/s now", Math.round(state.rates[state.rates.length - 1] ?? 0).toLocaleString("en")],
  ];
  $("gauges").replaceChildren(...figures.map(([name, value]) => el("div", "gauge", el("b", "", String(value)), name)));
  const top = Math.max(1, ...state.rates);
  const line = document.createElementNS("http://www.w3.org/2000/svg", "polyline");
  line.setAttribute("points", state.rates.map((rate, i) => `${(600 * i) / 299},${116 - (110 * rate) / top}`).join(" "));
  $("rate").replaceChildren(line);
  showCost();
}

async function recent() {
  const { data } = await (await call("v1/solves?limit=20")).json();
  $("recent").tBodies[0].replaceChildren(...data.map((job) => el("tr", "",
    el("td", "", job.problem.length > 80 ? job.problem.slice(0, 79) + "…" : job.problem), el("td", "", job.thinking.strategy ?? "majority-vote"),
    el("td", "", job.status), el("td", "", job.posterior?.best ?? job.so_far?.best ?? ""),
    el("td", "", (job.posterior?.cost.tokens ?? job.progress?.tokens ?? "").toLocaleString("en")))));
}

function choose(name) {
  for (const each of ["think", "status"]) {
    $(`tab-${each}`).setAttribute("aria-selected", String(each === name));
    $(`tab-${each}`).tabIndex = each === name ? 0 : -1;
    $(`view-${each}`).hidden = each !== name;
  }
  if (name === "status") recent().catch(complain);
}

function theme(name) {
  document.documentElement.dataset.theme = name;
  localStorage.setItem("theme", name);
}

theme(localStorage.getItem("theme") ?? (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light"));
$("theme").addEventListener("click", () => theme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"));
for (const name of ["think", "status"]) $(`tab-${name}`).addEventListener("click", () => choose(name));
document.querySelector("nav").addEventListener("keydown", (event) => {
  if (!["ArrowLeft", "ArrowRight"].includes(event.key)) return;
  const next = $("view-think").hidden ? "think" : "status";
  choose(next);
  $(`tab-${next}`).focus();
});
$("ask").addEventListener("submit", think);
$("problem").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
});
const stop = () => Promise.all(state.live.map((id) => call(`v1/solves/${id}`, { method: "DELETE" }))).catch(complain);
$("stop").addEventListener("click", stop);
document.addEventListener("keydown", (event) => event.key === "Escape" && !$("stop").disabled && stop());
$("sample").addEventListener("click", () => sample().catch(complain));
$("budget").addEventListener("input", showCost);
$("strategy").addEventListener("change", showAbout);
$("compare").addEventListener("change", () => ($("other").disabled = !$("compare").checked));
begin().catch(complain);
setInterval(() => document.hidden || refresh().catch(() => {}), 1000);
