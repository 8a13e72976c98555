// One search as a person sees it: answer, posterior, bill, river and outline, kept up to date while it grows.

import { button, el, grouped, many, named, shorten } from "./dom.js";
import { readTree, tally } from "./tree.js";
import { drawAnswer, drawBill, drawLaw, inWords } from "./summary.js";
import { drawRiver, wireRiver } from "./river.js";
import { actOn, drawRow, firstRows, rowsOf } from "./outline.js";

const UNFOLD_ALL_BELOW = 40, UNFOLD_HITS_BELOW = 40, LENGTHY = 150;

/** Put a view into `host`. Give its `update` the data, again and again; `winner` goes to the winning line. */
export class View {
  constructor(host) {
    this.state = { filter: undefined, query: "", open: new Set(), limits: new Map(), rows: firstRows(), current: null, allShares: false };
    this.slots = []; // which answer has which colour
    this.seen = new Set(); // nodes that were folded or unfolded by default once: after that it is the reader's choice
    this.build(host);
  }

  build(host) {
    const part = (name) => (this[name] = el("div", name));
    const card = (cls, title, ...kids) => el("section", `card ${cls}`, el("h3", "", title), ...kids);
    const law = card("", "Posterior", part("law"));
    law.firstChild.append(el("small", "", "choose one to see its lines"));
    this.riverNote = el("small", "");
    this.riverSection = card("river", "How the lines part", part("riverBox"));
    this.riverSection.firstChild.append(this.riverNote);
    this.riverBox.tabIndex = 0;
    this.riverBox.setAttribute("role", "group");
    this.riverBox.setAttribute("aria-label", "How the lines part; scrolls sideways");
    this.tip = el("div", "tip");
    this.tip.hidden = true;
    host.classList.add("view");
    host.replaceChildren(el("div", "cards", card("", "Answer", part("answer")), law, card("bill", "Bill", part("bill"))), this.riverSection, this.buildOutline(), this.tip);
    wireRiver(this.riverBox, this.tip, () => this.tree, (node) => this.reveal(node));
    let width = 0;
    new ResizeObserver(([{ contentRect }]) => {
      if (this.tree && Math.abs(contentRect.width - width) > 1) this.drawRiver();
      width = contentRect.width;
    }).observe(this.riverSection);
  }

  buildOutline() {
    const made = (tag, cls, label) => {
      const one = el(tag, cls);
      one.setAttribute("aria-label", label);
      return one;
    };
    this.search = made("input", "search", "Search the text of the lines");
    Object.assign(this.search, { type: "search", placeholder: "Search the text", autocomplete: "off", spellcheck: false });
    this.filter = made("select", "filter", "Only lines with this answer");
    this.toWinner = button("", "★ Winner", () => this.winner());
    const unfold = button("", "Unfold", () => this.fold(true)), fold = button("", "Fold", () => this.fold(false));
    this.count = el("small", "");
    this.list = made("ul", "tree", "Lines of thought, equal beginnings merged");
    this.list.setAttribute("role", "tree");
    let timer = 0;
    this.search.addEventListener("input", () => {
      clearTimeout(timer);
      timer = setTimeout(() => { this.state.query = this.search.value; this.draw(); }, 90);
    });
    this.filter.addEventListener("change", () => this.pick(this.filter.value === "" ? undefined : JSON.parse(this.filter.value)));
    this.list.addEventListener("click", (event) => this.clicked(event));
    this.list.addEventListener("keydown", (event) => this.pressed(event));
    const keys = el("p", "keys", ...["↑", "↓"].map((key) => el("kbd", "", key)), " move · ", ...["←", "→"].map((key) => el("kbd", "", key)), " fold and unfold · ", el("kbd", "", "w"), " winning line");
    const head = el("h3", "", "Lines of thought", this.count);
    return el("section", "outline", el("div", "tools", head, el("div", "controls", this.search, this.filter, this.toWinner, unfold, fold)), this.list, keys);
  }

  /** Draw `data`: what `outthink.show` made of a search. */
  update(data) {
    const over = !data.live && this.data?.live !== false;
    this.data = data;
    this.tree = readTree(data, this.slots);
    for (const node of this.tree.nodes) {
      if (data.live || !node.kids.length || (this.seen.has(node.key) && !node.won)) continue;
      this.seen.add(node.key);
      if (node.won || (this.tree.nodes.length <= UNFOLD_ALL_BELOW && !node.dead)) this.state.open.add(node.key);
    }
    this.choices();
    drawAnswer(this.answer, data, this.tree);
    drawBill(this.bill, data);
    this.draw();
    if (over && this.tree.winner && this.list.scrollHeight > this.list.clientHeight) this.rowOf(this.tree.winner.key)?.scrollIntoView({ block: "nearest" });
  }

  /** Go to the winning line. */
  winner() {
    if (this.tree?.winner) this.reveal(this.tree.winner);
  }

  /** Show all answers again. */
  clear() {
    this.state.query = this.search.value = "";
    this.pick(undefined);
  }

  pick(answer) {
    this.state.filter = answer;
    this.draw();
  }

  fold(open) {
    this.state.open.clear();
    this.state.limits.clear();
    for (const node of this.tree.nodes) {
      this.seen.add(node.key);
      if (!open) continue;
      this.state.open.add(node.key).add(`dead:${node.key}`).add("dead:top");
      this.state.limits.set(node.key, 1e9).set("top", 1e9);
    }
    this.drawOutline();
  }

  reveal(node) {
    if (!node.count) this.clear();
    this.openPath(node);
    if (node.kids.length) this.state.open.add(node.key);
    this.state.current = node.key;
    this.drawOutline();
    this.focusCurrent("center");
  }

  openPath(node) {
    for (let up = node.up; up; node = up, up = up.up) {
      const id = up === this.tree.root && !this.topIsRoot() ? "top" : up.key;
      this.state.open.add(up.key).add(node.dead ? `dead:${id}` : up.key);
      const index = up.kids.indexOf(node);
      if (index >= (this.state.limits.get(id) ?? 0)) this.state.limits.set(id, index + 12);
    }
  }

  topIsRoot() {
    return this.tree.root.steps.length > 0 || this.tree.root.lines.length > 0;
  }

  choices() {
    const told = tally(this.tree, this.tree.lines), all = el("option", "", "all answers");
    const mark = JSON.stringify(told);
    this.toWinner.hidden = !this.tree.winner;
    if (mark === this.choiceMark) return;
    this.choiceMark = mark;
    all.value = "";
    this.filter.replaceChildren(all, ...told.map(([answer, count]) => {
      const made = el("option", "", `${shorten(named(answer), 30)} ×${count}`);
      made.value = JSON.stringify(answer);
      return made;
    }));
  }

  draw() {
    const { state, tree } = this, query = state.query.toLowerCase();
    for (const node of tree.nodes) {
      node.found = query === "" || node.steps.some((entry) => entry.text.toLowerCase().includes(query)) || Boolean(node.up?.found);
      for (const line of node.lines) line.shown = node.found && (state.filter === undefined || (line.answer === state.filter && !line.growing));
      node.count = 0;
    }
    for (const node of [...tree.nodes].reverse()) {
      node.count += node.lines.filter((line) => line.shown).length;
      if (node.up) node.up.count += node.count;
    }
    if ((query !== "" || state.filter !== undefined) && tree.root.count <= UNFOLD_HITS_BELOW) {
      for (const node of tree.nodes) if (node.lines.some((line) => line.shown)) this.openPath(node);
    }
    const total = many(tree.lines.length, "line");
    this.count.textContent = tree.root.count === tree.lines.length ? total : `${grouped(tree.root.count)} of ${total}`;
    this.filter.value = state.filter === undefined ? "" : JSON.stringify(state.filter);
    drawLaw(this.law, this.data, tree, state, (answer) => this.pick(answer));
    this.drawOutline();
    this.drawRiver();
  }

  drawRiver() {
    const { tree } = this;
    this.riverSection.hidden = tree.lines.length < 2;
    if (this.riverSection.hidden) return;
    drawRiver(this.riverBox, tree, `${inWords(this.data, tree)}. The outline below holds the same.`);
    const growing = tree.lines.filter((line) => line.growing).length;
    const told = [`${grouped(tree.lines.length)} lines, ${many(tree.deepest, "step")} deep`, growing ? `${growing} being written` : null,
      tree.winner ? "the bold stroke is the winning line" : null, tree.thinned ? "what was given up is drawn thin" : null];
    this.riverNote.textContent = told.filter(Boolean).join("; ");
  }

  drawOutline() {
    const { state, tree, list } = this, held = list.contains(document.activeElement);
    this.rows = rowsOf(tree, state);
    list.classList.toggle("lengthy", this.rows.length > LENGTHY);
    list.replaceChildren(...this.rows.map((row) => drawRow(row, tree, state)));
    if (!this.rows.some((row) => row.id === state.current)) state.current = this.rows[0]?.id ?? null;
    const now = this.rowOf(state.current);
    if (!now) return;
    now.tabIndex = 0;
    if (held) now.focus({ preventScroll: true });
  }

  rowOf(id) {
    return [...this.list.children].find((item) => item.dataset.id === id) ?? null;
  }

  focusCurrent(block = "nearest") {
    const now = this.rowOf(this.state.current);
    if (!now) return;
    now.focus({ preventScroll: true });
    now.scrollIntoView({ block });
  }

  go(index) {
    const row = this.rows[index];
    if (!row) return;
    const before = this.rowOf(this.state.current);
    if (before) before.tabIndex = -1;
    this.state.current = row.id;
    this.rowOf(row.id).tabIndex = 0;
    this.focusCurrent();
  }

  act(row) {
    this.seen.add(row.id);
    if (actOn(row, this.state)) this.drawOutline();
  }

  clicked(event) {
    const item = event.target.closest("li");
    const at = this.rows.findIndex((row) => row.id === item?.dataset.id);
    if (at < 0 || String(getSelection()) !== "") return;
    this.go(at);
    this.act(this.rows[at]);
  }

  pressed(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const at = this.rows.findIndex((row) => row.id === this.state.current), row = this.rows[at];
    if (!row) return;
    const folds = Boolean(row.kids?.length), parent = () => this.rows.findLastIndex((one, index) => index < at && one.level < row.level);
    const keys = {
      ArrowDown: () => this.go(at + 1), ArrowUp: () => this.go(at - 1), Home: () => this.go(0), End: () => this.go(this.rows.length - 1),
      ArrowRight: () => (folds && row.open ? this.go(at + 1) : folds && this.act(row)),
      ArrowLeft: () => (folds && row.open ? this.act(row) : this.go(parent())),
      Enter: () => this.act(row), " ": () => this.act(row), w: () => this.winner(),
    };
    if (!keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
    this.rowOf(this.state.current)?.focus({ preventScroll: true });
  }
}
