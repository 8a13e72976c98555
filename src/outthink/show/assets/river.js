// The river: every line flows from the left, and they part where they differ. The winning line is the bold stroke.

import { el, ending, many, named, shorten, svg } from "./dom.js";
import { colorOf, isDead, rankOf, tally } from "./tree.js";

const TRUNK = 30, SEAM = 0.4, PAD = 8;
const CROWD = 60; // lines; above it, those that were given up at one place count by their logarithm
const THIN = 1.6; // pixels: what is thinner than this is drawn as one band, however many lines part within it

/** Draw `tree` into `box` and return the picture's facts: how wide a line is. */
export function drawRiver(box, tree, label) {
  const { root, deepest, winner } = tree, width = Math.max(box.clientWidth - 2, 200), margin = width < 500 ? 112 : 126;
  thinOut(tree);
  const drawn = tree.nodes.reduce((sum, node) => sum + node.ends.length, 0), gap = drawn > 120 ? 0.35 : 0.6;
  layOut(root, tree, gap);
  const height = Math.max(60, Math.min(drawn * 16, Math.max(280, Math.min(620, drawn * 2.4)))), unit = height / root.extent;
  const step = Math.max(30, (width - margin - TRUNK) / Math.max(1, deepest)), x = (depth) => TRUNK + depth * step;
  const plan = { tree, gap, unit, step, x, y: (at) => PAD + at * unit };
  const picture = svg("svg", { width: Math.max(width, x(deepest) + margin), height: height + 2 * PAD, role: "img", "aria-label": label });
  const bands = svg("g", { class: "bands" }), labels = svg("g", {});
  for (const node of visible(root, unit)) {
    const shape = shapeOf(node, plan);
    bands.append(...bandsOf(node, shape, plan));
    labels.append(...stepLabels(node, shape, plan));
    if (roomy(node, plan)) labels.append(endLabel(node, shape, plan));
  }
  picture.append(bands, ...(winner ? winningPath(plan) : []), labels);
  box.replaceChildren(picture);
}

// The ends of lines that are drawn: all of them, or of many that were given up at one place a few.
function thinOut(tree) {
  tree.thinned = false;
  for (const node of tree.nodes) {
    const dead = tree.lines.length > CROWD ? node.lines.filter(isDead) : [], kept = Math.ceil(Math.log2(dead.length + 1) / 2);
    node.ends = dead.length > kept ? [...node.lines.filter((line) => !isDead(line)), ...dead.slice(0, kept)] : node.lines;
    tree.thinned ||= node.ends.length < node.lines.length;
  }
}

// Vertical places in units of one line: each subtree has an extent of its own; a passage's band is centred in it.
function layOut(root, tree, gap) {
  const walk = [], stack = [root];
  while (stack.length) {
    const node = stack.pop();
    node.order = inOrder(node, tree);
    walk.push(node);
    stack.push(...[...node.order].reverse());
  }
  for (const node of [...walk].reverse()) {
    const parts = [...(node.ends.length ? [node.ends.length] : []), ...node.order.map((kid) => kid.extent)];
    node.flow = [...centred(node.ends), ...node.order.flatMap((kid) => kid.flow)];
    node.extent = Math.max(0.5, parts.reduce((sum, part) => sum + part, 0) + gap * Math.max(0, parts.length - 1));
  }
  root.top = 0;
  for (const node of walk) {
    let at = node.top, slot = node.ends.length;
    node.y = node.top + node.extent / 2 - node.flow.length / 2;
    if (node.ends.length) at += node.ends.length + gap;
    for (const kid of node.order) {
      kid.top = at;
      at += kid.extent + gap;
      kid.slot = node.y + slot;
      slot += kid.flow.length;
    }
  }
}

function inOrder(node, tree) {
  const best = new Map(node.kids.map((kid) => [kid, kid.leaves.reduce((least, line) => Math.min(least, rankOf(tree, line)), 1e9)]));
  return [...node.kids].sort((a, b) => b.won - a.won || best.get(a) - best.get(b) || b.leaves.length - a.leaves.length);
}

function centred(some) {
  const won = some.findIndex((line) => line.won), rest = some.filter((line) => !line.won), half = rest.length >> 1;
  return won < 0 ? rest : [...rest.slice(0, half), some[won], ...rest.slice(half)];
}

function visible(root, unit) {
  const found = [], stack = [root];
  while (stack.length) {
    const node = stack.pop();
    node.whole = !node.won && node.extent * unit < THIN;
    found.push(node);
    if (!node.whole) stack.push(...node.order);
  }
  return found;
}

function shapeOf(node, { step, x, tree }) {
  const depth = node.whole ? Math.min(tree.deepest, node.start + Math.max(1, node.steps.length)) : node.start + node.steps.length;
  const from = x(node.start), to = x(depth);
  if (!node.up) return { from: to, into: from, end: to };
  const into = Math.min(from + Math.min(0.4 * step, 70), Math.max(to, from + 12));
  return { from, into, end: Math.max(to, into) };
}

function bandsOf(node, { from, into, end }, { tree, y }) {
  const half = (from + into) / 2;
  return stripes(node, tree).map((stripe) => {
    const y0 = y(node.y + stripe.start), y1 = y(node.y + stripe.end);
    let d = `M0,${y0}H${end + SEAM}V${y1}H0Z`;
    if (node.up) {
      const p0 = y(node.slot + stripe.start), p1 = y(node.slot + stripe.end);
      d = `M${from},${p0}C${half},${p0} ${half},${y0} ${into},${y0}H${end + SEAM}V${y1}H${into}C${half},${y1} ${half},${p1} ${from},${p1}Z`;
    }
    const band = svg("path", { d, class: ["band", stripe.shown ? "" : "dim", stripe.growing ? "growing" : ""].join(" ") });
    band.style.fill = stripe.color;
    band.node = node;
    return band;
  });
}

function stripes(node, tree) {
  if (node.whole) return [{ color: colorOf(tree, node.flow[0] ?? { answer: null }), shown: node.count > 0, start: 0, end: node.flow.length }];
  const found = [];
  node.flow.forEach((line, index) => {
    const own = colorOf(tree, line), color = line.answer !== null && isDead(line) ? `color-mix(in srgb, ${own} 25%, var(--cn))` : own;
    const last = found[found.length - 1];
    if (last && last.color === color && last.shown === line.shown) last.end = index + 1;
    else found.push({ color, shown: line.shown, growing: line.growing, start: index, end: index + 1 });
  });
  return found;
}

const roomy = (node, { gap, unit }) => !node.whole && node.ends.length > 0 && (node.ends.length + gap) * unit >= 12.5;

// The text of a step on its band, where there is room for it. The winning stroke parts its band in two: the larger half.
function stepLabels(node, { into }, { unit, x, y }) {
  const cut = node.won ? node.flow.findIndex((line) => line.won) + 0.5 : 0, above = cut > node.flow.length / 2;
  const [from, to] = above ? [0, cut] : [cut, node.flow.length];
  if (node.whole || !node.count || (to - from) * unit < (node.won ? 17 : 15)) return [];
  const middle = y(node.y + (from + to) / 2) + 4;
  const kind = node.flow.some((line) => line.answer === null || !line.shown) ? "step pale" : "step";
  return node.steps.flatMap((entry, index) => {
    const left = Math.max(x(node.start + index), into) + 7, room = Math.floor((x(node.start + index + 1) - left - 4) / 7.3);
    return room < 9 ? [] : [svg("text", { x: left, y: middle, class: kind }, ending(entry.text, room))];
  });
}

function endLabel(node, { end }, { tree, y }) {
  const won = node.lines.some((line) => line.won), told = tally(tree, node.lines), growing = node.lines.filter((line) => line.growing).length;
  const text = svg("text", { x: end + (won ? 14 : 7), y: y(node.y + node.ends.length / 2) + 4, class: [won ? "win" : "", node.lines.some((line) => line.shown) ? "" : "dim"].join(" ").trim() });
  const open = tree.live && told.length === 1 && told[0][0] === null;
  text.append(!told.length ? "writing…" : open ? "open" : shorten(named(told[0][0]), 11) + (won ? " ★" : ""));
  const count = told.length ? node.lines.length - growing : growing;
  if (count > 1 || told.length > 1) text.append(svg("tspan", { class: "count", dx: 5 }, `×${count}`));
  return text;
}

function winningPath(plan) {
  const { tree, x, y } = plan, line = tree.winner.lines.find((one) => one.won), path = [];
  for (let node = tree.winner; node; node = node.up) path.unshift(node);
  let d = "", end = 0, at = 0;
  for (const node of path) {
    const index = node.flow.indexOf(line) + 0.5, shape = shapeOf(node, plan);
    at = y(node.y + index);
    end = shape.end;
    const slot = y(node.slot + index), half = (shape.from + shape.into) / 2;
    d += node.up ? `L${shape.from},${slot}C${half},${slot} ${half},${at} ${shape.into},${at}H${end}` : `M0,${at}H${Math.max(end, x(0))}`;
  }
  const dot = svg("circle", { cx: end, cy: at, r: 4.5, class: "dot" });
  const parts = [svg("path", { d, class: "halo" }), svg("path", { d, class: "won" }), dot];
  if (!roomy(tree.winner, plan)) parts.push(svg("text", { x: end + 12, y: at + 4, class: "win over" }, shorten(named(line.answer), 11) + " ★"));
  return parts;
}

/** Tell what is under the pointer, and hand a band that is clicked to `pick`. */
export function wireRiver(box, tip, treeNow, pick) {
  let lit = null;
  const light = (band) => {
    if (lit !== band) lit?.classList.remove("lit");
    lit = band;
    lit?.classList.add("lit");
  };
  box.addEventListener("pointermove", (event) => {
    const node = event.target.node ?? null;
    tip.hidden = !node;
    light(node ? event.target : null);
    if (!node) return;
    tip.replaceChildren(...told(node, treeNow()));
    const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8), below = event.clientY + 18;
    tip.style.left = `${Math.max(4, left)}px`;
    tip.style.top = `${below + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : below}px`;
  });
  box.addEventListener("pointerleave", () => { tip.hidden = true; light(null); });
  box.addEventListener("click", (event) => {
    if (!event.target.node) return;
    tip.hidden = true;
    pick(event.target.node);
  });
}

function told(node, tree) {
  const texts = node.steps.map((entry) => entry.text), shown = texts.slice(0, 4).join("\n") + (texts.length > 4 ? "\n…" : "");
  const counts = tally(tree, node.leaves).slice(0, 5).map(([answer, count]) => `${shorten(named(answer), 16)} ×${count}`);
  const growing = node.leaves.filter((line) => line.growing).length;
  if (growing) counts.push(`${growing} being written`);
  return [shown ? el("pre", "", shown) : null, `${many(node.leaves.length, "line")}: ${counts.join(", ")}`].filter(Boolean);
}
