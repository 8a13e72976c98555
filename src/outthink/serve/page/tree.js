// A tree of thought as SVG: one circle a branch, its size what the strategy made of it, its colour the answer below it.

const SVG = "http://www.w3.org/2000/svg";
const COLORS = 6;

function svg(tag, attributes) {
  const made = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
}

/** Nodes as the server sends them, linked and measured. Parents come before children. */
export function link(nodes) {
  const byId = new Map();
  for (const node of nodes) {
    node.kids = [];
    byId.set(node.id, node);
    const parent = byId.get(node.parent);
    node.up = parent ?? null;
    node.depth = parent ? parent.depth + 1 : 0;
    if (parent) parent.kids.push(node);
  }
  return nodes;
}

/** The text from below the prompt down to a node. */
export function lineOf(node) {
  const parts = [];
  for (let at = node; at && at.up && at.up.up; at = at.up) parts.unshift(at.text);
  return parts.join("");
}

function answerIn(text) {
  const found = [...text.matchAll(/^[ \t]*(?:final )?answer[ \t]*:[ \t]*(\S[^\n]*)$/gim)];
  return found.length ? found[found.length - 1][1].trim() : null;
}

export function colorOf(answer, order) {
  const rank = order.indexOf(answer);
  return answer === null || rank < 0 || rank >= COLORS ? "var(--cn)" : `var(--c${rank})`;
}

/** Draw into `canvas`. `order` lists answers, best first; `best` is the winning one; `pick(node)` is told what is looked at. */
export function draw(canvas, nodes, order, done, pick) {
  const leaves = nodes.filter((node) => node.kids.length === 0);
  for (const leaf of leaves) leaf.shown = leaf.finish === "stop" ? leaf.answer ?? answerIn(lineOf(leaf)) : null;
  const best = order[0] ?? null;
  const winner = done ? leaves.filter((leaf) => best !== null && leaf.shown === best)
    .sort((a, b) => (b.weight ?? -1e9) - (a.weight ?? -1e9) || b.log_prob - a.log_prob)[0] : null;
  const won = new Set();
  for (let at = winner; at; at = at.up) won.add(at);
  for (const node of won) node.kids.sort((a, b) => won.has(b) - won.has(a)); // the winning line runs along the top
  const gap = Math.max(4, Math.min(20, 420 / Math.max(1, leaves.length)));
  const depth = Math.max(1, ...nodes.map((node) => node.depth));
  const width = Math.max(canvas.clientWidth || 600, 60 + depth * 26);
  const height = Math.max(60, leaves.length * gap + 24);
  let row = 0;
  const place = [nodes[0]];
  while (place.length) {
    const node = place.pop();
    if (node.kids.length === 0) node.y = 14 + row++ * gap;
    place.push(...[...node.kids].reverse());
  }
  for (const node of [...nodes].reverse()) {
    node.x = 18 + (node.depth * (width - 36)) / depth;
    if (node.kids.length) node.y = won.has(node) ? node.kids[0].y : (node.kids[0].y + node.kids[node.kids.length - 1].y) / 2;
  }
  canvas.setAttribute("viewBox", `0 0 ${width} ${height}`);
  canvas.style.height = `${height}px`;
  const made = [];
  for (const node of nodes) {
    if (!node.up) continue;
    const middle = (node.up.x + node.x) / 2;
    const shape = `M${node.up.x} ${node.up.y}C${middle} ${node.up.y} ${middle} ${node.y} ${node.x} ${node.y}`;
    made.push(svg("path", { d: shape, class: won.has(node) ? "won" : node.fate && done ? "dead" : "" }));
  }
  for (const node of nodes) {
    const worth = node.visits !== null ? Math.log2(1 + node.visits) : node.value !== null ? 1 + 2 * Math.max(0, Math.min(1, node.value)) : 1.6;
    const growing = !done && node.finish === null && node.up !== null && node.kids.length === 0;
    const kind = [growing ? "growing" : "", !won.has(node) && node.fate && done ? "dead" : ""].join(" ");
    const dot = svg("circle", {
      cx: node.x, cy: node.y, r: Math.min(8, 0.45 * gap + 1 + worth * Math.min(1, gap / 8)), fill: node.kids.length ? "var(--soft)" : colorOf(node.shown, order), class: kind,
    });
    dot.addEventListener("pointerenter", () => pick(node));
    dot.addEventListener("click", () => pick(node));
    made.push(dot);
  }
  canvas.replaceChildren(...made);
  return winner ?? null;
}
