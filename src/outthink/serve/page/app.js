// The page: its views, what leads from one to another, and what happens at the start.

import { $, otherTheme, setTheme } from "./show/dom.js";
import { call, json } from "./api.js";
import { allowCompare, putBack, readChoices, readPast, requests, sample, setLimits, showChoice, showCost } from "./ask.js";
import { announce, cancelAll, clearFilters, live, showRuns } from "./runs.js";
import { showHistory } from "./history.js";
import { showRunning, showStatus } from "./status.js";

const VIEWS = ["think", "history", "status"], SECOND = 1000;
const ID = /^solve-[0-9a-f]{8,64}$/;
let here = "think", shown = "";

function complain(error) {
  $("trouble").textContent = error.message;
  $("trouble").hidden = false;
}

async function attempt(work) {
  $("trouble").hidden = true;
  try {
    return await work();
  } catch (error) {
    complain(error);
    return null;
  }
}

// ---- thinking -------------------------------------------------------------------------------------------------------

async function think(event) {
  event.preventDefault();
  if (live().length) return;
  await attempt(async () => {
    busy(true);
    try {
      const made = await Promise.all((await requests()).map((body) => json("v1/solves", { method: "POST", body: JSON.stringify(body) })));
      shown = made.map((job) => job.id).join("+");
      history.pushState(null, "", `#${shown}`);
      await watch(made.map((job) => job.id));
    } finally {
      busy(live().length > 0);
    }
  });
}

async function watch(ids) {
  busy(true);
  const watching = showRuns(ids);
  busy(live().length > 0);
  const last = await watching;
  busy(live().length > 0);
  await readPast();
  return last;
}

function busy(on) {
  $("go").disabled = on;
  $("stop").disabled = !on;
}

/** Show what the address names: solves of this or of other visits. */
async function goTo() {
  const ids = decodeURIComponent(location.hash.slice(1)).split("+").filter((id) => ID.test(id)).slice(0, 2);
  if (!ids.length) return;
  if (ids.join("+") === shown) return choose("think");
  shown = ids.join("+");
  choose("think");
  await attempt(async () => {
    const jobs = await Promise.all(ids.map((id) => json(`v1/solves/${id}`)));
    putBack(jobs[0], jobs[1] ?? null);
    await watch(ids);
  });
}

// ---- views ----------------------------------------------------------------------------------------------------------

function choose(name) {
  here = name;
  for (const each of VIEWS) {
    $(`tab-${each}`).setAttribute("aria-selected", String(each === name));
    $(`tab-${each}`).tabIndex = each === name ? 0 : -1;
    $(`view-${each}`).hidden = each !== name;
  }
  refresh();
}

async function refresh() {
  if (here === "think") return;
  await attempt(async () => {
    const jobs = await readPast();
    if (here === "history") showHistory(jobs);
    if (here !== "status") return;
    showStatus(await json("api/status"));
    showRunning(jobs, cancelOne);
  });
}

async function cancelOne(id) {
  await attempt(async () => {
    await call(`v1/solves/${id}/cancel`, { method: "POST" });
    await refresh();
  });
}

// While something thinks, readings are taken whatever is looked at: the chart shall have them.
function tick() {
  if (document.hidden) return;
  if (here === "status") refresh();
  else if (live().length) json("api/status").then(showStatus, () => {}); // the stream of the solve tells what is wrong
}

function theme(name) {
  setTheme(name);
  localStorage.setItem("theme", name);
}

function wire() {
  for (const name of VIEWS) $(`tab-${name}`).addEventListener("click", () => choose(name));
  document.querySelector("nav").addEventListener("keydown", (event) => {
    const move = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!move) return;
    choose(VIEWS[(VIEWS.indexOf(here) + move + VIEWS.length) % VIEWS.length]);
    $(`tab-${here}`).focus();
  });
  $("theme").addEventListener("click", () => theme(otherTheme()));
  $("ask").addEventListener("submit", think);
  $("stop").addEventListener("click", () => attempt(cancelAll));
  $("sample").addEventListener("click", () => attempt(() => sample()));
  $("budget").addEventListener("input", showCost);
  $("strategy").addEventListener("change", showChoice);
  $("compare").addEventListener("change", allowCompare);
  $("problem").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("ask").requestSubmit();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key !== "Escape") return;
    if (live().length) attempt(cancelAll);
    else clearFilters();
  });
  addEventListener("hashchange", goTo);
  document.addEventListener("click", (event) => { // a link to what the address names already changes no address
    if (event.target.closest?.("a[href^='#solve-']")?.getAttribute("href") === location.hash) goTo();
  });
  setInterval(tick, SECOND);
}

async function start() {
  await attempt(async () => {
    const status = await json("api/status");
    $("model").textContent = status.model;
    await readChoices();
    setLimits(status);
    const jobs = await readPast();
    const waiting = jobs.filter((job) => ["queued", "running"].includes(job.status)).length;
    if (waiting && !location.hash) announce(`${waiting} earlier solves are still running; History lists them`);
    if (!$("problem").value && !location.hash) await sample(true);
    await goTo();
  });
}

const kept = localStorage.getItem("theme");
if (kept) setTheme(kept);
wire();
start();
