// The page that stands alone: the data is in the document, and nothing is asked of anybody.

import { $, el, otherTheme, setTheme } from "./dom.js";
import { View } from "./view.js";

const data = JSON.parse($("data").textContent);
const listed = (values) => Object.entries(values).filter(([, value]) => value !== null && typeof value !== "object").map(([name, value]) => `${name}=${value}`).join(" ");

function drawFrame({ method, facts, prompt, version }) {
  const budget = facts.budget && facts.budget !== "unlimited" ? facts.budget : null;
  $("crumbs").textContent = [method.name, facts.model, budget].filter(Boolean).join("  ·  ");
  $("prompt").textContent = prompt;
  if (prompt.length > 220) $("prompt").className = "long";
  const about = [method.summary ? `${method.name}: ${method.summary}` : method.name, method.guarantee ? `Guarantee: ${method.guarantee} (${method.promise}).` : null];
  const made = ["verifier", "options", "sampling"].filter((key) => facts[key]).map((key) => `${key} ${typeof facts[key] === "string" ? facts[key] : listed(facts[key])}`);
  $("footer").append(el("p", "", about.filter(Boolean).join(" ")), ...(method.paper ? [el("p", "", method.paper)] : []), el("p", "", [...made, `Outthink ${version}`].join(" · ")));
}

drawFrame(data);
const view = new View($("view"));
view.update(data);
$("theme").addEventListener("click", () => setTheme(otherTheme()));
document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input, select, textarea");
  if (event.key === "Escape") view.clear();
  else if (event.key === "/" && !typing) { event.preventDefault(); view.search.focus(); }
  else if (event.key === "w" && !typing) view.winner();
});
