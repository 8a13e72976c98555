// Making elements, and writing numbers. Every text goes in as a text node: nothing that a model wrote is ever markup.

export const $ = (id) => document.getElementById(id);

export function el(tag, cls, ...kids) {
  const made = document.createElement(tag);
  if (cls) made.className = cls;
  made.append(...kids.filter((kid) => kid !== null && kid !== undefined));
  return made;
}

export function button(cls, label, act) {
  const made = el("button", cls, label);
  made.type = "button";
  made.addEventListener("click", act);
  return made;
}

export function svg(tag, attributes, ...kids) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...kids);
  return made;
}

export const shorten = (text, length) => (text.length > length ? text.slice(0, length - 1) + "…" : text);
export const ending = (text, length) => (text.length > length ? "…" + text.slice(1 - length) : text);
export const grouped = (count) => Math.round(count).toLocaleString("en");
export const many = (count, noun, nouns = noun + "s") => `${grouped(count)} ${Math.round(count) === 1 ? noun : nouns}`;
export const percent = (share) => (share >= 0.0995 || share === 0 ? `${Math.round(share * 100)}%` : `${(share * 100).toFixed(1)}%`);
export const figure = (value) => (typeof value === "number" ? String(Number(value.toPrecision(3))).replace("-", "−") : value);
export const seconds = (value) => (value < 10 ? value.toFixed(2) : value.toFixed(value < 100 ? 1 : 0));
export const named = (answer) => (answer === null ? "no answer" : answer);

/** A number as three digits and the letter of its power of a thousand. */
export function si(value) {
  if (!(value > 0)) return ["0", ""];
  const letters = ["", "k", "M", "G", "T", "P", "E"];
  const power = Math.max(0, Math.min(6, Math.floor(Math.log10(value) / 3)));
  return [(value / 1000 ** power).toPrecision(3), letters[power]];
}

export function counted(some, of) {
  const counts = new Map();
  for (const one of some) counts.set(of(one), (counts.get(of(one)) || 0) + 1);
  return counts;
}

export function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

/** The other of light and dark than what is seen now. */
export function otherTheme() {
  const chosen = document.documentElement.dataset.theme;
  const dark = chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  return dark ? "light" : "dark";
}
