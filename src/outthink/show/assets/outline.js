// The outline: the lines as text, equal beginnings merged, as a tree of rows that fold. What is dead is folded together.

import { counted, el, figure, many, named, shorten } from "./dom.js";
import { colorOf, fateOf, tally } from "./tree.js";

const FIRST_KIDS = 12, MORE_KIDS = 50, FIRST_ROWS = 400, MORE_ROWS = 400, LONG = 3, FEW = 2;
const GROWING = { growing: true, answer: null };

/** The rows that are to be seen, from the top: `{ id, kind, node, level, open, kids }`; at most `state.rows` of them. */
export function rowsOf(tree, state) {
  const found = [];
  const walk = (kids, id, level) => {
    const shown = kids.filter((kid) => kid.count > 0), dead = shown.filter((kid) => kid.dead);
    const folded = dead.length > 1 && dead.length < shown.length ? dead : [], alive = folded.length ? shown.filter((kid) => !kid.dead) : shown;
    const limit = Math.max(state.limits.get(id) ?? FIRST_KIDS, alive.length <= FIRST_KIDS + FEW ? alive.length : 0);
    for (const kid of alive.slice(0, limit)) add(kid, level);
    if (alive.length > limit) found.push({ id: `more:${id}`, kind: "more", level, of: id, rest: alive.slice(limit), limit });
    if (folded.length) {
      const row = { id: `dead:${id}`, kind: "dead", level, kids: folded, open: state.open.has(`dead:${id}`) };
      found.push(row);
      if (row.open) for (const kid of folded.slice(0, state.limits.get(row.id) ?? MORE_KIDS)) add(kid, level + 1);
      const left = folded.slice(state.limits.get(row.id) ?? MORE_KIDS);
      if (row.open && left.length) found.push({ id: `more:${row.id}`, kind: "more", level: level + 1, of: row.id, rest: left, limit: folded.length - left.length });
    }
  };
  const add = (node, level) => {
    const open = state.open.has(node.key);
    found.push({ id: node.key, kind: "node", node, level, open, kids: node.kids });
    if (open && node.kids.length) walk(node.kids, node.key, level + 1);
  };
  const top = tree.root.steps.length || tree.root.lines.length ? [tree.root] : tree.root.kids;
  walk(top, "top", 1);
  if (found.length > state.rows) {
    const rest = found.length - state.rows;
    found.length = state.rows;
    found.push({ id: "rows", kind: "rows", level: 1, rest });
  }
  return found;
}

/** What a key or a click does to a row. Returns whether anything changed. */
export function actOn(row, state) {
  if (row.kind === "more") state.limits.set(row.of, row.limit + MORE_KIDS);
  else if (row.kind === "rows") state.rows += MORE_ROWS;
  else if (!row.kids.length) return false;
  else if (!state.open.delete(row.id)) state.open.add(row.id);
  return true;
}

export const firstRows = () => FIRST_ROWS;

export function drawRow(row, tree, state) {
  const made = el("li", [row.kind, row.node?.won ? "won" : "", row.node?.dead ? "gone" : "", row.kids?.length ? "branches" : ""].join(" ").replace(/ +/g, " ").trim());
  made.setAttribute("role", "treeitem");
  made.setAttribute("aria-level", String(row.level));
  made.dataset.id = row.id;
  made.tabIndex = -1;
  made.style.setProperty("--level", String(row.level - 1));
  if (row.kids?.length) made.setAttribute("aria-expanded", String(row.open));
  if (row.node?.won) made.setAttribute("aria-current", "true");
  made.append(row.kind === "node" ? nodeRow(row, tree, state) : el("div", "row", el("span", "twist", row.kind === "dead" ? (row.open ? "▾" : "▸") : "+"), el("div", "note", noteOf(row))));
  return made;
}

function noteOf(row) {
  if (row.kind === "rows") return `show more: ${many(row.rest, "row")} left`;
  if (row.kind === "more") return `show ${Math.min(row.rest.length, MORE_KIDS)} more of ${row.rest.length} (${many(row.rest.reduce((sum, kid) => sum + kid.count, 0), "line")})`;
  const lost = row.kids.flatMap((kid) => kid.leaves).filter((line) => line.shown);
  const fates = [...counted(lost, (line) => fateOf(line) ?? "no answer")].sort((a, b) => b[1] - a[1]);
  return `${many(row.kids.length, "branch", "branches")} given up: ${fates.slice(0, 4).map(([fate, count]) => `${shorten(fate, 40)} ×${count}`).join(", ")}`;
}

function nodeRow({ node, open, kids }, tree, state) {
  const forks = kids.length > 0, body = el("div", "", stepsOf(node, open || !forks, state));
  const shown = node.lines.filter((line) => line.shown);
  for (const group of sameEnds(shown)) body.append(endOf(group, tree));
  if (forks) {
    const here = kids.reduce((sum, kid) => sum + kid.count, 0), ways = kids.filter((kid) => kid.count > 0).length;
    if (ways) body.append(el("div", "fork", ways === 1 ? (here === 1 ? "1 line goes on" : `${here} lines go on`) : `${here} lines part into ${ways}`));
  }
  const meta = el("div", "meta");
  if (node.count > 1) meta.append(mini(node.leaves.filter((line) => line.shown), tree), el("span", "", `×${node.count}`));
  return el("div", "row", el("span", "twist", forks ? (open ? "▾" : "▸") : ""), body, meta);
}

function stepsOf(node, whole, state) {
  const made = el("div", "steps"), long = !whole && node.steps.length > LONG;
  const texts = long ? [...node.steps.slice(0, 2), null, node.steps[node.steps.length - 1]] : node.steps;
  texts.forEach((entry, index) => {
    if (index) made.append("\n");
    if (entry === null) { made.append(el("span", "elided", `… ${node.steps.length - LONG} more`)); return; }
    made.append(...marked(entry.text, state.query));
    const marks = ["value", "visits", "weight"].filter((key) => entry[key] !== undefined && entry[key] !== null).map((key) => `${key} ${figure(entry[key])}`);
    if (marks.length) made.append(el("span", "marks", marks.join(" · ")));
  });
  if (!node.steps.length) made.append(el("span", "elided", node.lines.length ? "(nothing written yet)" : "(all lines)"));
  return made;
}

function marked(text, asked) {
  const query = asked.toLowerCase(), low = text.toLowerCase(), parts = [];
  if (!query || low.length !== text.length) return [text];
  let at = 0;
  for (let next = low.indexOf(query); next >= 0; next = low.indexOf(query, at)) {
    parts.push(text.slice(at, next), el("mark", "", text.slice(next, next + query.length)));
    at = next + query.length;
  }
  return [...parts, text.slice(at)];
}

// Equal lines are one record, as often as there are lines; those that grow are all alike.
function sameEnds(some) {
  return [...counted(some, (line) => (line.growing ? GROWING : line))];
}

function endOf([line, count], tree) {
  const dot = el("span", "dot"), made = el("div", "ends");
  dot.style.background = colorOf(tree, line);
  if (line.growing) {
    made.append(el("span", "writing", dot, count > 1 ? `${count} lines being written` : "being written"));
    return made;
  }
  if (line.won) made.append(el("span", "star", "★ winning line"));
  if (line.answer !== null) made.append(el("span", "chip", dot, shorten(line.answer, 60)));
  const told = [count > 1 ? `${count} equal lines` : null, line.fate === "chosen" && !line.won ? "agrees" : tree.live && !line.fate ? null : fateOf(line),
    `log p ${span(line.log_prob)}`, `${span(line.tokens)} tokens`];
  if (line.weight !== null && line.weight !== 1) told.push(`weight ${span(line.weight)}`);
  if (line.value !== null && line.value !== "ruled out") told.push(`value ${figure(line.value)}`);
  if (line.visits !== null) told.push(many(line.visits, "visit"));
  for (const text of told.filter(Boolean)) made.append(el("span", "", text));
  made.title = "log p: the model's log-probability of the whole line, in nats";
  return made;
}

// A number, or the least and the largest of several.
function span(value) {
  const [low, high] = Array.isArray(value) ? value.map(figure) : [figure(value), figure(value)];
  return low === high ? low || "unknown" : `${low} to ${high}`;
}

function mini(some, tree) {
  const made = el("span", "mini"), shares = counted(some, (line) => colorOf(tree, line));
  for (const [color, count] of shares) {
    const part = el("i");
    part.style.cssText = `flex:${count};background:${color}`;
    made.append(part);
  }
  made.title = tally(tree, some).slice(0, 8).map(([answer, count]) => `${shorten(named(answer), 20)} ×${count}`).join(", ");
  return made;
}
