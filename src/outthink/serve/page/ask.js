// The question, the strategy and the budget, and what they are expected to cost by what was measured here.

import { $, el, grouped, seconds, si } from "./show/dom.js";
import { json } from "./api.js";

const RECENT = 100, STEP = 10;
const FAMILIES = { decoding: "One line, or token by token", aggregation: "Many lines, one vote", search: "Search over steps", particles: "Particles", sequential: "One line after another" };
const known = { methods: [], tokenFlops: 0, past: [] };

export const budget = () => Math.max(STEP, Math.round(2 ** Number($("budget").value) / STEP) * STEP);

export async function readChoices() {
  const found = await json("api/methods");
  known.methods = found.strategies;
  known.tokenFlops = found.token_flops;
  fillStrategies($("strategy"), found.default_strategy);
  fillStrategies($("other"), "greedy");
  for (const select of [$("verifier"), $("other-verifier")]) fill(select, [["", "no verifier"], ...found.verifiers.map((name) => [name, name])], "");
  showChoice();
}

/** What finished solves tell of costs: tokens, seconds and FLOPs of each, newest first. */
export async function readPast() {
  const { data } = await json(`v1/solves?limit=${RECENT}`);
  known.past = data.filter((job) => job.status === "done" && job.posterior.cost.seconds > 0 && job.posterior.cost.tokens > 0);
  showCost();
  return data;
}

function fill(select, entries, chosen) {
  select.replaceChildren(...entries.map(([value, label]) => choice(value, label, value === chosen)));
}

function choice(value, label, selected) {
  const made = el("option", "", label);
  made.value = value;
  made.selected = selected;
  return made;
}

function fillStrategies(select, chosen) {
  const families = [...new Set(known.methods.map((method) => method.family))];
  select.replaceChildren(...families.map((family) => {
    const group = el("optgroup", "", ...known.methods.filter((method) => method.family === family).map(({ name }) => choice(name, name, name === chosen)));
    group.label = FAMILIES[family] ?? family;
    return group;
  }));
}

const chosen = (select) => known.methods.find((method) => method.name === select.value);

export function showChoice() {
  const method = chosen($("strategy"));
  if (!method) return;
  $("about").replaceChildren(el("b", "", method.guarantee), " ", method.summary, " ", el("span", "paper", method.paper));
  $("about").title = method.promise;
  $("how").textContent = method.how;
  const typed = new Map([...$("own-options").querySelectorAll("input")].map((input) => [input.dataset.option, input]));
  $("own-options").replaceChildren(...Object.entries(method.options).map(([name, value]) => optionField(name, value, typed.get(name))));
  showCost();
}

// What was typed for another strategy's option of this name stays.
function optionField(name, value, typed) {
  const input = el("input");
  input.dataset.option = name;
  if (typeof value === "boolean") Object.assign(input, { type: "checkbox", checked: value, defaultChecked: value });
  else Object.assign(input, { type: typeof value === "number" ? "number" : "text", step: "any", placeholder: String(value) });
  if (typed?.type === input.type && input.type !== "checkbox") input.value = typed.value;
  return el("label", "field", name, " ", input);
}

function ownOptions(method) {
  const found = {};
  for (const input of $("own-options").querySelectorAll("input")) {
    const name = input.dataset.option, usual = method.options[name];
    if (typeof usual === "boolean" ? input.checked !== usual : input.value !== "") {
      found[name] = typeof usual === "boolean" ? input.checked : typeof usual === "number" ? Number(input.value) : input.value;
    }
  }
  return found;
}

/** Tokens a second and FLOPs a token, of the latest solves with this strategy, else of all; null where nothing ran yet. */
function measured(strategy) {
  const same = known.past.filter((job) => job.posterior.method === strategy).slice(0, 10), some = same.length ? same : known.past.slice(0, 10);
  if (!some.length) return null;
  const sum = (key) => some.reduce((total, job) => total + job.posterior.cost[key], 0);
  return { rate: sum("tokens") / sum("seconds"), flops: sum("flops") / sum("tokens"), same: same.length > 0 };
}

export function showCost() {
  const tokens = budget(), found = measured($("strategy").value), flops = si(tokens * (found?.flops || known.tokenFlops));
  const time = found ? `≈ ${seconds(tokens / found.rate)} s` : "time not yet measured";
  const parts = [`up to ${grouped(tokens)} tokens`, time, `≈ ${flops[0]} ${flops[1]}FLOPs`];
  $("cost").replaceChildren(...parts.map((text) => el("span", "", text)));
  $("cost").title = found ? `${grouped(found.rate)} tokens/s, as the last solves${found.same ? " with this strategy" : ""} on this server` : "No solve has finished on this server yet";
  $("budget").setAttribute("aria-valuetext", `${grouped(tokens)} tokens`);
}

export function setLimits(status) {
  $("budget").max = String(Math.floor(4 * Math.log2(status.max_tokens)) / 4);
  showCost();
}

/** A problem to begin with. With `onlyIfEmpty`, what was typed meanwhile stays. */
export async function sample(onlyIfEmpty = false) {
  const { prompt } = await json("api/problem");
  if (onlyIfEmpty && ($("problem").value || document.activeElement === $("problem"))) return;
  $("problem").value = prompt;
}

/** The requests that the form asks for: one, or two to compare. */
export async function requests() {
  const pairs = [[$("strategy"), $("verifier")], ...($("compare").checked ? [[$("other"), $("other-verifier")]] : [])];
  return Promise.all(pairs.map(async ([select, verifier], index) => {
    const method = chosen(select), tokens = budget(), own = index === 0 ? ownOptions(method) : {};
    const spending = $("all-of-it").checked ? await json(`api/options?strategy=${encodeURIComponent(method.name)}&tokens=${tokens}&line=${typicalLine()}`) : {};
    const thinking = { strategy: method.name, budget: tokens, options: { ...spending, ...own } };
    if (verifier.value) thinking.verifier = verifier.value;
    return { problem: $("problem").value, thinking, seed: Number($("seed").value) || 0, temperature: Number($("temperature").value) };
  }));
}

// Tokens of a line, by what solves took: budgets are planned in lines.
function typicalLine() {
  const found = known.past.filter((job) => job.posterior.attempts > 0).slice(0, 20).map((job) => job.posterior.cost.tokens / job.posterior.attempts).sort((a, b) => a - b);
  return found.length ? Math.max(1, Math.round(found[found.length >> 1])) : 32;
}

/** Put what a solve asked back into the form. */
export function putBack({ problem, thinking, seed, temperature }, other = null) {
  $("problem").value = problem;
  const put = (select, value) => { if (value && [...select.options].some((option) => option.value === value)) select.value = value; };
  put($("strategy"), thinking.strategy);
  $("verifier").value = thinking.verifier ?? "";
  const tokens = tokensOf(thinking.budget);
  if (tokens) $("budget").value = String(Math.log2(tokens));
  $("temperature").value = String(temperature ?? 1);
  if (seed !== null && seed !== undefined) $("seed").value = String(seed);
  $("compare").checked = other !== null;
  if (other) {
    put($("other"), other.thinking.strategy);
    $("other-verifier").value = other.thinking.verifier ?? "";
  }
  allowCompare();
  showChoice();
  putOptions(thinking.options ?? {});
}

// Options that were sent stand in their fields; then none is worked out anew, but for those of a second strategy.
function putOptions(options) {
  for (const input of $("own-options").querySelectorAll("input")) {
    const value = options[input.dataset.option];
    if (input.type === "checkbox") input.checked = value ?? input.defaultChecked;
    else input.value = value ?? "";
  }
  if (!$("compare").checked) $("all-of-it").checked = !Object.keys(options).length;
}

// The tokens of a budget, as a number or in words; none where it is in other units.
function tokensOf(said) {
  if (typeof said === "number") return said;
  const read = /^\s*([\d.]+)\s*([km]?)\s*(?:tokens?)?\s*$/i.exec(said ?? "");
  return read ? Number(read[1]) * { "": 1, k: 1e3, m: 1e6 }[read[2].toLowerCase()] : 0;
}

export function allowCompare() {
  for (const id of ["other", "other-verifier"]) $(id).disabled = !$("compare").checked;
}
