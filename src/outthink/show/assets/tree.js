// The tree as the server tells it, linked: passages with their children, the lines below each, and who is alive.

import { counted } from "./dom.js";

const COLORS = 8;
const ALIVE = [null, "chosen", "outvoted"]; // fates of lines that reached an answer which the posterior weighs
const NOBODY = 1e9; // the rank of no answer

/** Passages of `data` linked into nodes. `slots` has the answer of each colour: one keeps its colour while it leads. */
export function readTree(data, slots) {
  const nodes = data.passages.map((passage) => ({ ...passage, lines: passage.lines.flatMap((line) => Array(line.count).fill(line)), kids: [], leaves: [], start: 0 }));
  for (const node of nodes) {
    const parent = node.parent === null ? null : nodes[node.parent];
    node.up = parent;
    if (parent) parent.kids.push(node);
    node.start = parent ? parent.start + parent.steps.length : 0;
    link(node);
    for (let count = data.live ? node.growing : 0; count > 0; count--) node.lines.push({ answer: null, growing: true, won: false });
  }
  const counts = counted(nodes.flatMap((node) => node.lines), (line) => line.answer), ranks = new Map();
  for (const { answer } of data.answers) ranks.set(answer, ranks.size);
  for (const [answer] of [...counts].sort((a, b) => b[1] - a[1])) if (answer !== null && !ranks.has(answer)) ranks.set(answer, ranks.size);
  paint(slots, [...ranks.keys()].slice(0, COLORS));
  for (const node of [...nodes].reverse()) {
    node.lines.sort((a, b) => b.won - a.won);
    node.dead = !node.won && node.lines.every(isDead) && node.kids.every((kid) => kid.dead);
    node.kids.sort((a, b) => b.won - a.won || a.dead - b.dead || b.leaves.length - a.leaves.length || a.id - b.id);
    node.leaves = [...node.lines, ...node.kids.flatMap((kid) => kid.leaves)];
  }
  const deepest = Math.max(0, ...nodes.map((node) => node.start + node.steps.length));
  const winner = nodes.find((node) => node.lines.some((line) => line.won)) ?? null;
  return { nodes, root: nodes[0], lines: nodes[0].leaves, counts, winner, ranks, slots: [...slots], deepest, live: data.live };
}

// The leaders that have a colour keep it; the others take those of answers that no longer lead.
function paint(slots, leaders) {
  for (const leader of leaders) {
    if (slots.includes(leader)) continue;
    const free = slots.length < COLORS ? slots.length : slots.findIndex((answer) => !leaders.includes(answer));
    slots[free] = leader;
  }
}

export const rankOf = (tree, line) => (line.answer === null ? NOBODY : tree.ranks.get(line.answer));

export function colorOf(tree, line) {
  if (line.growing) return "var(--grow)";
  const slot = line.answer === null ? -1 : tree.slots.indexOf(line.answer);
  return `var(--${slot >= 0 ? `c${slot}` : line.answer === null ? "cn" : "cx"})`;
}

/** Answers of some lines with their counts, in the order of ranks; growing lines are left out. */
export function tally(tree, some) {
  const counts = counted(some.filter((line) => !line.growing), (line) => line.answer);
  return [...counts].sort((a, b) => rankOf(tree, { answer: a[0] }) - rankOf(tree, { answer: b[0] }));
}

/** Why a line ended, in a word or two; null for one that agrees with the winner or is still written. */
export function fateOf(line) {
  if (line.growing || line.won || line.fate === "chosen") return null;
  if (line.fate) return line.fate;
  return line.answer === null ? (line.finish === "stop" ? "no answer" : { length: "ran to its full length", budget: "cut by the budget", cancelled: "cancelled" }[line.finish] ?? "no answer") : null;
}

export function isDead(line) {
  return !line.growing && !line.won && (line.answer === null || !ALIVE.includes(line.fate));
}

// A node is known again in a later tree by the texts from the root to its first step, wherever passages begin and end.
function link(node) {
  let hash = node.up ? node.up.hash : [0x811c9dc5, 0x1b873593];
  node.key = node.up ? null : "root";
  for (const { text } of node.steps) {
    hash = hashed(hash, text);
    node.key ??= `${hash[0]}:${hash[1]}`;
  }
  node.key ??= `${hash[0]}:${hash[1]}+`;
  node.hash = hash;
}

function hashed([a, b], text) {
  for (let i = 0; i <= text.length; i++) {
    const code = i < text.length ? text.charCodeAt(i) : 0x10000;
    a = Math.imul(a ^ code, 0x01000193) >>> 0;
    b = Math.imul(b ^ code, 0x5bd1e995) >>> 0;
    b ^= b >>> 15;
  }
  return [a, b >>> 0];
}
