"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const $ = (id) => document.getElementById(id);
  const COLORS = 8, FIRST_SHARES = 8, FIRST_KIDS = 12, UNFOLD_ALL_BELOW = 40, UNFOLD_HITS_BELOW = 40, TRUNK = 30, SEAM = 0.4;

  // Every text goes in as a text node: nothing that a model wrote is ever parsed as markup.
  function el(tag, cls, ...kids) {
    const made = document.createElement(tag);
    if (cls) made.className = cls;
    made.append(...kids.filter((kid) => kid !== null && kid !== undefined));
    return made;
  }
  const SVG = "http://www.w3.org/2000/svg";
  function svg(tag, attributes, ...kids) {
    const made = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    made.append(...kids);
    return made;
  }
  const shorten = (text, length) => (text.length > length ? text.slice(0, length - 1) + "…" : text);
  const ending = (text, length) => (text.length > length ? "…" + text.slice(1 - length) : text);
  const many = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;
  const percent = (share) => (share >= 0.0995 || share === 0 ? `${Math.round(share * 100)}%` : `${(share * 100).toFixed(1)}%`);
  const figure = (value) => (typeof value === "number" ? String(Number(value.toPrecision(3))).replace("-", "−") : value);

  // ---- the data: passages with children, lines below, and the colour of each answer ------------------------------

  const nodes = data.passages;
  for (const node of nodes) Object.assign(node, { kids: [], leaves: [], start: 0 });
  for (const node of nodes) {
    if (node.parent === null) continue;
    nodes[node.parent].kids.push(node);
    node.start = nodes[node.parent].start + nodes[node.parent].steps.length;
  }
  const rank = new Map(data.answers.map((entry, index) => [entry.answer, index]));
  const counted = new Map();
  for (const line of nodes.flatMap((node) => node.lines)) {
    if (line.answer !== null && !rank.has(line.answer)) counted.set(line.answer, (counted.get(line.answer) || 0) + 1);
  }
  for (const [answer] of [...counted].sort((a, b) => b[1] - a[1])) rank.set(answer, rank.size);
  const rankOf = (line) => (line.answer === null ? 1e9 : rank.get(line.answer));
  const colorAt = (index) => `var(--${index < COLORS ? "c" + index : index < 1e9 ? "cx" : "cn"})`;
  const colorOf = (line) => colorAt(rankOf(line));
  for (const node of [...nodes].reverse()) {
    node.lines.sort((a, b) => b.won - a.won);
    node.kids.sort((a, b) => b.won - a.won || b.leaves.length - a.leaves.length || a.id - b.id);
    node.leaves = [...node.lines, ...node.kids.flatMap((kid) => kid.leaves)];
  }
  const root = nodes[0], lines = root.leaves;
  const winner = nodes.find((node) => node.lines.some((line) => line.won));

  function tally(some) {
    const counts = new Map();
    for (const line of some) counts.set(line.answer, (counts.get(line.answer) || 0) + 1);
    const order = (answer) => rankOf({ answer });
    return [...counts].sort((a, b) => order(a[0]) - order(b[0]));
  }
  const named = (answer) => (answer === null ? "no answer" : answer);

  // ---- question, answer, posterior, bill -------------------------------------------------------------------------

  const state = { filter: undefined, query: "", open: new Set(), limits: new Map(), current: 0 };

  function verdict(right) {
    if (right === null) return null;
    return el("span", `verdict ${right ? "right" : "wrong"}`, right ? "✓ right" : "✗ wrong");
  }
  function drawHead() {
    const facts = data.facts;
    $("crumbs").textContent = [data.method.name, facts.model, facts.budget && facts.budget !== "unlimited" ? facts.budget : null]
      .filter(Boolean).join("  ·  ");
    $("prompt").textContent = data.prompt;
    if (data.prompt.length > 220) $("prompt").className = "long";
    const best = $("best");
    if (data.best === null) {
      best.className = "none";
      best.textContent = "no answer";
      $("sure").textContent = data.confidence_means;
    } else {
      if (data.best.length > 14) best.className = "long";
      best.append(data.best, verdict(data.right) || "");
      const fill = el("i");
      fill.style.width = `${100 * data.confidence}%`;
      $("sure").append(el("b", "", percent(data.confidence)), " ", el("span", "", "confidence"), el("div", "gauge", fill),
        el("span", "", data.confidence_means));
    }
    $("stopped").textContent = data.stopped || "";
  }

  function drawLaw(all) {
    const counts = new Map(tally(lines));
    const rows = data.answers.map((entry) => ({ ...entry, lines: counts.get(entry.answer) || 0 }));
    for (const [answer, count] of [...counted].sort((a, b) => b[1] - a[1])) {
      rows.push({ answer, share: 0, right: data.checked[answer] ?? null, lines: count });
    }
    if (data.unassigned > 5e-4 || counts.get(null)) {
      rows.push({ answer: null, share: data.unassigned, right: null, lines: counts.get(null) || 0 });
    }
    const shown = all || rows.length <= FIRST_SHARES + 1 ? rows : [...rows.slice(0, FIRST_SHARES)];
    const most = Math.max(...rows.map((row) => row.share), 1e-9);
    $("law").replaceChildren(...shown.map((row) => shareRow(row, most)));
    if (shown.length < rows.length) {
      const more = el("button", "more", `${rows.length - shown.length} more`);
      more.onclick = () => drawLaw(true);
      $("law").append(more);
    }
  }
  function shareRow(row, most) {
    const bar = el("span", "bar"), track = el("span", "", bar);
    bar.style.display = "block";
    bar.style.width = `${(100 * row.share) / most}%`;
    bar.style.background = colorOf(row);
    const mark = row.right === null ? null : el("em", row.right ? "right" : "wrong", row.right ? "✓" : "✗");
    const label = row.answer === null && !row.lines ? "elsewhere" : named(row.answer);
    const name = el("span", row.answer === null ? "name words" : "name", label, mark);
    const made = el("button", "share", name, track, el("span", "num", percent(row.share)), el("span", "num lines", row.lines ? `×${row.lines}` : ""));
    made.title = `${label}: ${percent(row.share)}, ${many(row.lines, "line")}`;
    made.setAttribute("aria-pressed", String(state.filter === row.answer));
    made.onclick = () => setFilter(state.filter === row.answer ? undefined : row.answer);
    made.dataset.answer = JSON.stringify(row.answer);
    return made;
  }

  function drawBill() {
    const bill = data.bill, amount = (value, unit) => el("div", "", el("b", "", value), el("span", "", unit));
    const flops = bill.flops ? si(bill.flops) : null;
    const rows = el("div", "figures", amount(bill.tokens.toLocaleString("en"), bill.tokens === 1 ? "token" : "tokens"),
      amount(bill.seconds < 10 ? bill.seconds.toFixed(2) : bill.seconds.toFixed(1), "s"), flops ? amount(flops[0], flops[1] + "FLOPs") : null);
    const total = data.spending.reduce((sum, part) => sum + part.tokens, 0) || 1;
    const stack = el("div", "stack"), legend = el("ul", "legend");
    const shades = { "the winning line": "var(--ink)", "lines that agree with it": "var(--c0)", outvoted: "var(--c1)", "no answer": "var(--cx)" };
    const rest = ["var(--c3)", "var(--c2)", "var(--c6)", "var(--c4)"];
    for (const part of data.spending) {
      const shade = part.what === "prompt and verifying" ? "var(--cn)" : shades[part.what] || rest.shift() || "var(--cx)";
      const slice = el("i"), dot = el("span", "dot");
      slice.style.cssText = `width:${(100 * part.tokens) / total}%;background:${shade}`;
      slice.title = `${part.what}: ${part.tokens.toLocaleString("en")} tokens`;
      dot.style.background = shade;
      stack.append(slice);
      legend.append(el("li", "", dot, part.what, el("b", "", part.tokens.toLocaleString("en"))));
    }
    const notes = [bill.cached ? `${many(bill.cached, "prompt position")} found in the cache` : null,
      bill.verifier_calls ? many(bill.verifier_calls, "verifier call") : null, bill.tool_calls ? many(bill.tool_calls, "tool call") : null];
    $("bill").append(rows, stack, legend, el("p", "fine", notes.filter(Boolean).join(" · ")));
  }
  function si(value) {
    const steps = ["", "k", "M", "G", "T", "P", "E"], power = Math.min(6, Math.floor(Math.log10(value) / 3));
    return [(value / 1000 ** power).toPrecision(3), steps[power]];
  }

  // ---- the river: every line flows from the left; they part where they differ ------------------------------------

  function riverOrder(node) {
    const key = (kid) => Math.min(...kid.leaves.map(rankOf), 1e9);
    return [...node.kids].sort((a, b) => b.won - a.won || key(a) - key(b) || b.leaves.length - a.leaves.length);
  }
  // Vertical places in units of one line: each subtree has an extent of its own; a passage's band is centred in it.
  function layOut(gap) {
    const walk = [], stack = [root];
    while (stack.length) {
      const node = stack.pop();
      node.order = riverOrder(node);
      node.placed = centred(node.lines);
      walk.push(node);
      stack.push(...[...node.order].reverse());
    }
    for (const node of [...walk].reverse()) {
      const parts = [...(node.lines.length ? [node.lines.length] : []), ...node.order.map((kid) => kid.extent)];
      node.flow = [...node.placed, ...node.order.flatMap((kid) => kid.flow)];
      node.extent = parts.reduce((sum, part) => sum + part, 0) + gap * Math.max(0, parts.length - 1);
    }
    root.top = 0;
    for (const node of walk) {
      let at = node.top;
      node.mid = node.top + node.extent / 2;
      node.y = node.mid - node.flow.length / 2;
      if (node.lines.length) at += node.lines.length + gap;
      for (const kid of node.order) { kid.top = at; at += kid.extent + gap; }
      let slot = node.y + node.lines.length;
      for (const kid of node.order) { kid.slot = slot; slot += kid.flow.length; }
    }
    return walk;
  }
  function centred(some) {
    const won = some.findIndex((line) => line.won), rest = some.filter((line) => !line.won), half = rest.length >> 1;
    return won < 0 ? rest : [...rest.slice(0, half), some[won], ...rest.slice(half)];
  }
  function stripes(flow) {
    const found = [];
    flow.forEach((line, index) => {
      const color = colorOf(line), last = found[found.length - 1];
      if (last && last.color === color && last.shown === line.shown) last.end = index + 1;
      else found.push({ color, shown: line.shown, start: index, end: index + 1 });
    });
    return found;
  }
  function drawRiver() {
    if (lines.length < 2) { $("river-section").hidden = true; return; }
    const gap = lines.length > 120 ? 0.35 : 0.6, walk = layOut(gap);
    const box = $("river"), deepest = Math.max(...nodes.map((n) => n.start + n.steps.length));
    const width = Math.max(box.clientWidth - 2, 200), label = width < 500 ? 100 : 126;
    const height = Math.max(90, Math.min(lines.length * 16, Math.max(280, Math.min(620, lines.length * 2.4)))), unit = height / root.extent;
    const step = Math.max(30, (width - label - TRUNK) / Math.max(1, deepest)), x = (depth) => TRUNK + depth * step;
    const picture = svg("svg", { width: Math.max(width, x(deepest) + label), height: height + 16, role: "img",
      "aria-label": `${lines.length} lines of thought; the outline below holds the same` });
    const bands = svg("g", { class: "bands" }), labels = svg("g", {});
    const roomy = (node) => node.lines.length > 0 && (node.lines.length + gap) * unit >= 12.5;
    for (const node of walk) {
      const from = x(node.start), curve = Math.min(0.4 * step, 70), to = node.steps.length ? x(node.start + node.steps.length) : from;
      const into = node === root ? 0 : Math.min(from + curve, Math.max(to, from + 12)), end = node === root ? Math.max(to, from) : Math.max(to, into);
      for (const stripe of stripes(node.flow)) {
        const y0 = 8 + (node.y + stripe.start) * unit, y1 = 8 + (node.y + stripe.end) * unit;
        const slot = node === root ? node.y : node.slot, p0 = 8 + (slot + stripe.start) * unit, p1 = 8 + (slot + stripe.end) * unit, half = (from + into) / 2;
        const path = node === root ? `M${into},${y0}H${end + SEAM}V${y1}H${into}Z`
          : `M${from},${p0}C${half},${p0} ${half},${y0} ${into},${y0}H${end + SEAM}V${y1}H${into}C${half},${y1} ${half},${p1} ${from},${p1}Z`;
        const band = svg("path", { d: path, class: stripe.shown ? "band" : "band dim" });
        band.style.fill = stripe.color;
        band.dataset.node = node.id;
        bands.append(band);
      }
      labels.append(...stepLabels(node, into, x, unit));
      if (roomy(node)) labels.append(endLabel(node, end, unit));
    }
    picture.append(bands, ...(winner ? winningPath(x, step, unit, roomy(winner)) : []), labels);
    box.replaceChildren(picture);
    $("river-note").textContent = `${lines.length} lines, ${many(deepest, "step")} deep${winner ? "; the bold stroke is the winning line" : ""}`;
  }
  // The text of a step on its band, where there is room for it.
  function stepLabels(node, into, x, unit) {
    // The winning line's stroke parts its band in two: the text goes where there is more room.
    const cut = node.won ? node.flow.findIndex((line) => line.won) + 0.5 : 0, above = cut > node.flow.length / 2;
    const [from, to] = above ? [0, cut] : [cut, node.flow.length];
    if (!node.count || (to - from) * unit < (node.won ? 17 : 15)) return [];
    const y = 8 + (node.y + (from + to) / 2) * unit + 4;
    return node.steps.flatMap((entry, index) => {
      const left = Math.max(x(node.start + index), into) + 7, room = Math.floor((x(node.start + index + 1) - left - 4) / 7.3);
      if (room < 9) return [];
      return [svg("text", { x: left, y, class: "step" }, ending(entry.text, room))];
    });
  }
  function endLabel(node, end, unit) {
    const won = node.lines.some((line) => line.won), [[answer, count], ...others] = tally(node.lines);
    const at = 8 + (node.y + node.lines.length / 2) * unit;
    const text = svg("text", { x: end + (won ? 14 : 7), y: at + 4, class: [won ? "win" : "", node.lines.some((line) => line.shown) ? "" : "dim"].join(" ").trim() });
    text.append(shorten(named(answer), 11) + (won ? " ★" : ""));
    if (count > 1 || others.length) text.append(svg("tspan", { class: "count", dx: 5 }, `×${node.lines.length}`));
    return text;
  }
  function winningPath(x, step, unit, labelled) {
    const line = winner.lines.find((one) => one.won), path = [];
    for (let node = winner; node; node = node.parent === null ? null : nodes[node.parent]) path.unshift(node);
    let d = "", end = 0, y = 0;
    for (const node of path) {
      const index = node.flow.indexOf(line) + 0.5, from = x(node.start), to = node.steps.length ? x(node.start + node.steps.length) : from;
      const into = Math.min(from + Math.min(0.4 * step, 70), Math.max(to, from + 12));
      const slot = 8 + ((node === root ? node.y : node.slot) + index) * unit, half = (from + into) / 2;
      y = 8 + (node.y + index) * unit;
      end = Math.max(to, into);
      d += node === root ? `M0,${y}H${Math.max(to, from)}` : `L${from},${slot}C${half},${slot} ${half},${y} ${into},${y}H${end}`;
    }
    const dot = svg("circle", { cx: end, cy: y, r: 4.5 });
    dot.style.fill = "var(--ink)";
    const parts = [svg("path", { d, class: "halo" }), svg("path", { d, class: "won" }), dot];
    if (!labelled) {
      const text = svg("text", { x: end + 12, y: y + 4, class: "win" }, shorten(named(line.answer), 11) + " ★");
      text.style.cssText = "paint-order:stroke;stroke:var(--card);stroke-width:4px";
      parts.push(text);
    }
    return parts;
  }
  function tipFor(node) {
    const texts = node.steps.map((entry) => entry.text), shown = texts.slice(0, 4).join("\n") + (texts.length > 4 ? "\n…" : "");
    const counts = tally(node.leaves).slice(0, 5).map(([answer, count]) => `${shorten(named(answer), 16)} ×${count}`);
    return [shown ? el("pre", "", shown) : null, `${many(node.leaves.length, "line")}: ${counts.join(", ")}`].filter(Boolean);
  }
  function wireRiver() {
    const tip = $("tip");
    const nodeOf = (event) => (event.target.dataset && event.target.dataset.node !== undefined ? nodes[Number(event.target.dataset.node)] : null);
    $("river").addEventListener("pointermove", (event) => {
      const node = nodeOf(event);
      tip.hidden = !node;
      for (const band of document.querySelectorAll("#river .band")) band.classList.toggle("lit", Boolean(node) && Number(band.dataset.node) === node.id);
      if (!node) return;
      tip.replaceChildren(...tipFor(node));
      const left = Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8), below = event.clientY + 18;
      tip.style.left = `${Math.max(4, left)}px`;
      tip.style.top = `${below + tip.offsetHeight > innerHeight ? event.clientY - tip.offsetHeight - 12 : below}px`;
    });
    $("river").addEventListener("pointerleave", () => { tip.hidden = true; });
    $("river").addEventListener("click", (event) => { const node = nodeOf(event); if (node) { tip.hidden = true; reveal(node); } });
  }

  // ---- the outline -----------------------------------------------------------------------------------------------

  function applyFilter() {
    const query = state.query.toLowerCase();
    const hits = (node) => query !== "" && node.steps.some((entry) => entry.text.toLowerCase().includes(query));
    for (const node of nodes) {
      node.hit = hits(node);
      node.found = query === "" || node.hit || (node.parent !== null && nodes[node.parent].found);
      for (const line of node.lines) line.shown = node.found && (state.filter === undefined || line.answer === state.filter);
    }
    for (const node of nodes) node.count = 0;
    for (const node of [...nodes].reverse()) {
      node.count += node.lines.filter((line) => line.shown).length;
      if (node.parent !== null) nodes[node.parent].count += node.count;
    }
    if ((query !== "" || state.filter !== undefined) && root.count <= UNFOLD_HITS_BELOW) {
      for (const node of nodes) if (node.lines.some((line) => line.shown)) openPath(node);
    }
    const total = many(lines.length, "line");
    $("count").textContent = root.count === lines.length ? total : `${root.count.toLocaleString("en")} of ${total}`;
    for (const button of document.querySelectorAll(".share")) {
      button.setAttribute("aria-pressed", String(button.dataset.answer === JSON.stringify(state.filter)));
    }
    $("filter").value = state.filter === undefined ? "" : JSON.stringify(state.filter);
    render();
    drawRiver();
  }
  function setFilter(answer) { state.filter = answer; applyFilter(); }
  function openPath(node) {
    for (let at = node.parent; at !== null; at = nodes[at].parent) {
      state.open.add(at);
      const index = nodes[at].kids.findIndex((kid) => kid.id === node.id);
      if (index >= (state.limits.get(at) || FIRST_KIDS)) state.limits.set(at, index + 1);
      node = nodes[at];
    }
  }
  function reveal(node) {
    if (!node.count) { state.filter = undefined; state.query = ""; $("search").value = ""; applyFilter(); }
    openPath(node);
    state.open.add(node.id);
    state.current = node.id;
    render();
    focusCurrent("center");
  }
  function focusCurrent(block) {
    const item = document.querySelector(`#tree li[data-id="${state.current}"]`);
    if (!item) return;
    item.focus({ preventScroll: true });
    item.querySelector(".row").scrollIntoView({ block: block || "nearest", behavior: "auto" });
  }

  function render() {
    const top = root.steps.length || root.lines.length ? [root] : root.kids;
    if (!nodes[state.current] || (state.current === 0 && top[0] !== root)) state.current = top.length ? top[0].id : 0;
    $("tree").replaceChildren(...items(top, null, 1));
    if (!$("tree").querySelector('li[tabindex="0"]')) {
      const first = $("tree").querySelector("li[data-id]");
      if (first) { first.tabIndex = 0; state.current = Number(first.dataset.id); }
    }
  }
  function items(kids, parent, level) {
    const shown = kids.filter((kid) => kid.count > 0), limit = parent === null ? FIRST_KIDS : state.limits.get(parent) || FIRST_KIDS;
    const cap = parent === null ? state.limits.get(-1) || FIRST_KIDS : limit, made = shown.slice(0, cap).map((kid) => item(kid, level));
    if (shown.length > cap) {
      const rest = shown.slice(cap), count = rest.reduce((sum, kid) => sum + kid.count, 0);
      const more = el("button", "more", `show ${Math.min(rest.length, 50)} more of ${rest.length} (${many(count, "line")})`);
      more.onclick = () => { state.limits.set(parent === null ? -1 : parent, cap + 50); render(); };
      made.push(el("li", "", more));
    }
    return made;
  }
  function item(node, level) {
    const open = state.open.has(node.id), forks = node.kids.length > 0;
    const made = el("li", [node.won ? "won" : "", forks ? "branches" : ""].join(" ").trim());
    made.setAttribute("role", "treeitem");
    made.setAttribute("aria-level", String(level));
    made.dataset.id = node.id;
    made.tabIndex = node.id === state.current ? 0 : -1;
    if (forks) made.setAttribute("aria-expanded", String(open));
    made.append(row(node, open, forks));
    if (forks && open) {
      const group = el("ul", "", ...items(node.kids, node.id, level + 1));
      group.setAttribute("role", "group");
      made.append(group);
    }
    return made;
  }
  function row(node, open, forks) {
    const body = el("div", "", stepsOf(node, open || !forks));
    const shown = node.lines.filter((line) => line.shown);
    for (const group of sameEnds(shown)) body.append(endOf(group));
    if (forks) {
      const here = node.kids.reduce((sum, kid) => sum + kid.count, 0), kids = node.kids.filter((kid) => kid.count > 0).length;
      if (kids) body.append(el("div", "fork", kids === 1 ? (here === 1 ? "1 line goes on" : `${here} lines go on`) : `${here} lines part into ${kids}`));
    }
    const meta = el("div", "meta");
    if (node.count > 1) meta.append(mini(node.leaves.filter((line) => line.shown)), el("span", "", `×${node.count}`));
    const made = el("div", "row", el("span", "twist", forks ? (open ? "▾" : "▸") : ""), body, meta);
    made.onclick = () => {
      state.current = node.id;
      if (forks && String(getSelection()) === "") toggle(node.id);
      else render();
      focusCurrent();
    };
    return made;
  }
  function toggle(id) {
    if (!state.open.delete(id)) state.open.add(id);
    render();
  }
  function stepsOf(node, whole) {
    const made = el("div", "steps"), long = !whole && node.steps.length > 3;
    const texts = long ? [...node.steps.slice(0, 2), null, node.steps[node.steps.length - 1]] : node.steps;
    texts.forEach((entry, index) => {
      if (index) made.append("\n");
      if (entry === null) { made.append(el("span", "elided", `… ${node.steps.length - 3} more`)); return; }
      made.append(...marked(entry.text));
      const marks = ["value", "visits", "weight"].filter((key) => entry[key] !== undefined && entry[key] !== null).map((key) => `${key} ${figure(entry[key])}`);
      if (marks.length) made.append(el("span", "marks", marks.join(" · ")));
    });
    if (!node.steps.length) made.append(el("span", "elided", node.lines.length ? "(nothing written)" : "(all lines)"));
    return made;
  }
  function marked(text) {
    const query = state.query.toLowerCase(), low = text.toLowerCase(), parts = [];
    if (!query || low.length !== text.length) return [text];
    let at = 0;
    for (let next = low.indexOf(query); next >= 0; next = low.indexOf(query, at)) {
      parts.push(text.slice(at, next), el("mark", "", text.slice(next, next + query.length)));
      at = next + query.length;
    }
    return [...parts, text.slice(at)];
  }
  // Lines with the very same text may still differ in fate (one of them is the winner) or in what a judge said.
  function sameEnds(some) {
    const groups = new Map();
    for (const line of some) {
      const key = JSON.stringify([line.won, line.answer, line.fate, line.finish, line.value]);
      if (!groups.has(key)) groups.set(key, []);
      groups.get(key).push(line);
    }
    return [...groups.values()];
  }
  function endOf(group) {
    const line = group[0], dot = el("span", "dot"), made = el("div", "ends");
    dot.style.background = colorOf(line);
    if (line.won) made.append(el("span", "star", "★ winning line"));
    if (line.answer !== null) made.append(el("span", "chip", dot, shorten(line.answer, 60)));
    const fate = line.won ? null : line.fate === "chosen" ? "agrees" : line.fate || (line.answer === null ? "no answer" : null);
    const told = [group.length > 1 ? `${group.length} equal lines` : null, fate, line.finish === "length" ? "ran to its full length" : null,
      `log p ${span(group, "log_prob")}`, `${span(group, "tokens")} tokens`];
    if (group.some((one) => one.weight !== null && one.weight !== 1)) told.push(`weight ${span(group, "weight")}`);
    if (line.value !== null && line.value !== "ruled out") told.push(`value ${figure(line.value)}`);
    if (line.visits !== null) told.push(many(line.visits, "visit"));
    for (const text of told.filter(Boolean)) made.append(el("span", "", text));
    made.title = "log p: the model's log-probability of the whole line, in nats";
    return made;
  }
  function span(group, key) {
    const values = group.map((line) => line[key]).filter((value) => typeof value === "number");
    if (!values.length) return figure(group[0][key]) || "unknown";
    const low = Math.min(...values), high = Math.max(...values);
    return figure(low) === figure(high) ? figure(low) : `${figure(low)} to ${figure(high)}`;
  }
  function mini(some) {
    const made = el("span", "mini"), shares = new Map();
    for (const [answer, count] of tally(some)) {
      const color = colorOf({ answer });
      shares.set(color, (shares.get(color) || 0) + count);
    }
    for (const [color, count] of shares) {
      const part = el("i");
      part.style.cssText = `flex:${count};background:${color}`;
      made.append(part);
    }
    made.title = tally(some).slice(0, 8).map(([answer, count]) => `${shorten(named(answer), 20)} ×${count}`).join(", ");
    return made;
  }

  // ---- keys and controls -----------------------------------------------------------------------------------------

  function wire() {
    const typing = (event) => event.target.matches("input, select, textarea");
    let timer = 0;
    $("search").oninput = () => { clearTimeout(timer); timer = setTimeout(() => { state.query = $("search").value; applyFilter(); }, 90); };
    $("filter").onchange = () => setFilter($("filter").value === "" ? undefined : JSON.parse($("filter").value));
    $("open-all").onclick = () => { for (const node of nodes) { state.open.add(node.id); state.limits.set(node.id, 1e9); } state.limits.set(-1, 1e9); render(); };
    $("close-all").onclick = () => { state.open.clear(); state.limits.clear(); render(); };
    $("to-winner").onclick = () => { if (winner) reveal(winner); };
    $("to-winner").hidden = !winner;
    $("theme").onclick = () => { setTheme(document.documentElement.dataset.theme === "dark" ? "light" : "dark"); };
    document.addEventListener("keydown", (event) => {
      if (event.ctrlKey || event.metaKey || event.altKey) return;
      if (event.key === "Escape") {
        state.query = $("search").value = "";
        setFilter(undefined);
      } else if (typing(event)) {
        return;
      } else if (event.key === "/") {
        event.preventDefault();
        $("search").focus();
      } else if (event.key === "w" && winner) {
        reveal(winner);
      }
    });
    $("tree").addEventListener("keydown", treeKey);
    let wait = 0;
    addEventListener("resize", () => { clearTimeout(wait); wait = setTimeout(drawRiver, 120); });
  }
  function treeKey(event) {
    if (!event.target.matches("li[data-id]") || event.ctrlKey || event.metaKey || event.altKey) return;
    const rows = [...$("tree").querySelectorAll("li[data-id]")], at = rows.findIndex((one) => Number(one.dataset.id) === state.current);
    const node = nodes[state.current], open = state.open.has(node.id), go = (index) => { if (rows[index]) { state.current = Number(rows[index].dataset.id); move(); } };
    const move = () => { for (const one of rows) one.tabIndex = Number(one.dataset.id) === state.current ? 0 : -1; focusCurrent(); };
    const fold = () => { toggle(node.id); focusCurrent(); };
    const keys = {
      ArrowDown: () => go(at + 1), ArrowUp: () => go(at - 1), Home: () => go(0), End: () => go(rows.length - 1),
      ArrowRight: () => { if (node.kids.length && !open) fold(); else if (node.kids.length) go(at + 1); },
      ArrowLeft: () => { if (node.kids.length && open) fold(); else if (node.parent !== null) go(rows.findIndex((one) => Number(one.dataset.id) === node.parent)); },
      Enter: () => { if (node.kids.length) fold(); }, " ": () => { if (node.kids.length) fold(); },
    };
    if (keys[event.key]) { event.preventDefault(); keys[event.key](); }
  }
  function setTheme(theme) { document.documentElement.dataset.theme = theme; }

  function drawFoot() {
    const method = data.method, facts = data.facts;
    const about = [method.summary ? `${method.name}: ${method.summary}` : method.name, method.guarantee ? `Guarantee: ${method.guarantee} (${method.promise}).` : null];
    $("footer").append(el("p", "", about.filter(Boolean).join(" ")));
    if (method.paper) $("footer").append(el("p", "", method.paper));
    const made = ["verifier", "options", "sampling"].filter((key) => facts[key]).map((key) => `${key} ${typeof facts[key] === "string" ? facts[key] : told(facts[key])}`);
    $("footer").append(el("p", "", [...made, `Outthink ${data.version}`].join(" · ")));
  }
  function told(values) {
    const plain = (value) => value !== null && typeof value !== "object";
    return Object.entries(values).filter(([, value]) => plain(value)).map(([name, value]) => `${name}=${value}`).join(" ");
  }

  setTheme(matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light");
  const choices = tally(lines).map(([answer, count]) => { const made = el("option", "", `${shorten(named(answer), 30)} ×${count}`); made.value = JSON.stringify(answer); return made; });
  const all = el("option", "", "all answers");
  all.value = "";
  $("filter").append(all, ...choices);
  for (const node of nodes) if (node.won || nodes.length <= UNFOLD_ALL_BELOW) state.open.add(node.id);
  drawHead();
  drawLaw(false);
  drawBill();
  drawFoot();
  applyFilter();
  wireRiver();
  wire();
})();
