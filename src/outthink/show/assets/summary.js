// Answer, posterior and bill: the three cards at the top.

import { button, counted, el, grouped, many, named, percent, figure, seconds, si } from "./dom.js";
import { colorOf } from "./tree.js";

const FIRST_SHARES = 8;
const SHADES = { "the winning line": "var(--ink)", "lines that agree with it": "var(--c0)", outvoted: "var(--c1)", "no answer": "var(--cx)", "prompt and verifying": "var(--cn)" };

export function drawAnswer(box, data, tree) {
  const best = el("div", `best ${data.best === null ? "none" : data.best.length > 14 ? "long" : data.best.length > 6 ? "middling" : ""}`);
  const sure = el("div", "sure");
  if (data.best === null) {
    best.textContent = data.live ? "…" : "no answer";
    sure.textContent = data.confidence_means;
  } else {
    const right = data.right === null ? null : el("span", `verdict ${data.right ? "right" : "wrong"}`, data.right ? "✓ right" : "✗ wrong");
    best.append(el("span", "what", data.best), right ?? "");
    best.style.color = `color-mix(in srgb, ${colorOf(tree, { answer: data.best })} 78%, var(--ink))`;
    const fill = el("i"), gauge = el("div", "gauge", fill);
    fill.style.width = `${100 * data.confidence}%`;
    fill.style.background = colorOf(tree, { answer: data.best });
    sure.append(el("b", "", percent(data.confidence)), el("span", "", data.live ? " of the votes" : " confidence"), gauge, el("span", "", data.confidence_means));
  }
  const evidence = data.evidence ? `log evidence ${figure(data.evidence.value)}${data.evidence.se === null ? "" : ` ± ${figure(data.evidence.se)} (standard error of ${many(data.evidence.runs, "run")})`}` : null;
  const notes = [data.stopped, evidence].filter(Boolean).map((text) => el("p", "stopped", text));
  box.replaceChildren(best, sure, ...notes);
}

/** The shares as bars; `state.filter` is the answer that is picked, `pick` is told of another. */
export function drawLaw(box, data, tree, state, pick) {
  const rows = data.answers.map((entry) => ({ ...entry, lines: tree.counts.get(entry.answer) || 0 }));
  const known = new Set(data.answers.map((entry) => entry.answer));
  const unweighed = [...tree.counts].filter(([answer]) => answer !== null && !known.has(answer)).sort((a, b) => b[1] - a[1]);
  for (const [answer, count] of unweighed) rows.push({ answer, share: 0, right: data.checked[answer] ?? null, lines: count });
  const without = data.live ? 0 : tree.lines.filter((line) => line.answer === null).length; // while it grows, they may go on
  if ((data.unassigned > 5e-4 && data.answers.length) || without) rows.push({ answer: null, share: data.answers.length ? data.unassigned : 0, right: null, lines: without });
  const shown = state.allShares || rows.length <= FIRST_SHARES + 1 ? rows : rows.slice(0, FIRST_SHARES);
  const most = Math.max(...rows.map((row) => row.share), 1e-9);
  box.replaceChildren(...shown.map((row) => shareRow(row, most, tree, state, pick)));
  if (!rows.length) box.append(el("p", "fine", "Nothing has reached an answer yet."));
  if (shown.length < rows.length) {
    box.append(button("more", `${rows.length - shown.length} more`, () => {
      state.allShares = true;
      drawLaw(box, data, tree, state, pick);
    }));
  }
}

function shareRow(row, most, tree, state, pick) {
  const bar = el("span", "bar");
  bar.style.width = `${(100 * row.share) / most}%`;
  bar.style.background = colorOf(tree, row);
  const mark = row.right === null ? null : el("em", row.right ? "right" : "wrong", row.right ? "✓" : "✗");
  const label = row.answer === null && !row.lines ? "elsewhere" : named(row.answer);
  const name = el("span", row.answer === null ? "name words" : "name", label, mark);
  const made = button("share", "", () => pick(state.filter === row.answer ? undefined : row.answer));
  made.replaceChildren(name, el("span", "track", bar), el("span", "num", percent(row.share)), el("span", "num lines", row.lines ? `×${row.lines}` : ""));
  const judged = row.right === null ? "" : row.right ? ", right" : ", wrong";
  made.setAttribute("aria-label", `${label}${judged}: ${percent(row.share)}, ${many(row.lines, "line")}. Show only these lines`);
  made.setAttribute("aria-pressed", String(state.filter === row.answer));
  made.title = `${label}: ${percent(row.share)}, ${many(row.lines, "line")}`;
  return made;
}

export function drawBill(box, data) {
  const bill = data.bill, amount = (value, unit) => el("div", "", el("b", "", value), " ", el("span", "", unit));
  const flops = bill.flops ? si(bill.flops) : null;
  const figures = el("div", "figures", amount(grouped(bill.tokens), bill.tokens === 1 ? "token" : "tokens"), amount(seconds(bill.seconds), "s"), flops ? amount(flops[0], flops[1] + "FLOPs") : null);
  const total = data.spending.reduce((sum, part) => sum + part.tokens, 0) || 1;
  const stack = el("div", "stack"), legend = el("ul", "legend"), rest = ["var(--c3)", "var(--c2)", "var(--c6)", "var(--c4)"];
  for (const part of data.spending) {
    const shade = SHADES[part.what] || rest.shift() || "var(--cx)", slice = el("i"), dot = el("span", "dot");
    slice.style.cssText = `width:${(100 * part.tokens) / total}%;background:${shade}`;
    dot.style.background = shade;
    stack.append(slice);
    legend.append(el("li", "", dot, part.what, el("b", "", grouped(part.tokens))));
  }
  const speed = bill.seconds > 0 && bill.tokens ? `${grouped(bill.tokens / bill.seconds)} tokens/s` : null;
  const notes = [speed, bill.cached ? `${many(bill.cached, "prompt position")} from the cache` : null,
    bill.verifier_calls ? many(bill.verifier_calls, "verifier call") : null, bill.tool_calls ? many(bill.tool_calls, "tool call") : null];
  box.replaceChildren(figures);
  if (data.live) {
    const spent = el("i"), meter = el("div", "gauge", spent);
    spent.style.width = `${100 * Math.min(1, data.fraction)}%`;
    box.append(meter, el("p", "fine", `${percent(data.fraction)} of the budget spent`));
  } else {
    box.append(stack, legend);
  }
  box.append(el("p", "fine", notes.filter(Boolean).join(" · ")));
}

/** Words for those who cannot see the tree: how many lines there are and what became of them. */
export function inWords(data, tree) {
  const fates = counted(tree.lines.filter((line) => line.answer !== null), (line) => line.answer);
  const parts = [...fates].sort((a, b) => b[1] - a[1]).slice(0, 5).map(([answer, count]) => `${answer} on ${count}`);
  return `${many(tree.lines.length, "line")} of thought${parts.length ? `: ${parts.join(", ")}` : ""}`;
}
