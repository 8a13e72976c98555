"""From records to medians, ratios, distances and tables."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from statistics import median
from typing import Any

from outthink.bench.coverage_report import table
from outthink.bench.engine.machine import is_busy
from outthink.bench.search.plan import OURS, Json, Part, SearchConfig
from outthink.bench.search.rounds import Measured
from outthink.bench.search.tokens import EXACT

NODE_GOAL_US, SHARE_GOAL = 1000.0, 0.10
WHAT = "search beside others"


def report(
    measured: Measured, parts: Sequence[Part], config: SearchConfig, model: str, machine: Json, command: str
) -> Json:
    """The result as plain JSON values: a row for each work and way."""
    rows = [row for part in parts for row in rows_of(part.name, measured.records)]
    return {
        "what": WHAT,
        "command": command,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": {**machine, "busy": is_busy(machine)},
        "model": model,
        "config": config.to_json(),
        "goals": {"microseconds a node": NODE_GOAL_US, "share outside the forward pass": SHARE_GOAL},
        "interrupted": measured.interrupted,
        "rows": rows,
        "missing": measured.missing,
        "others": measured.told,
    }


def rows_of(part: str, records: Iterable[Json]) -> list[Json]:
    """Medians over the rounds of every figure, and of the rounds' own ratios to ours; distances to the exact law."""
    groups: dict[tuple[str, str], dict[int, Json]] = {}
    for record in records:
        if record["part"] == part:
            groups.setdefault((record["work"], record["way"]), {})[record["round"]] = record
    rows = []
    for (work, way), rounds in sorted(groups.items(), key=lambda item: _order(item[0], [*groups])):
        ours = groups.get((work, OURS), {})
        figures = {name: median(r[name] for r in rounds.values()) for name in _figures(rounds)}
        row: Json = {"part": part, "work": work, "way": way, "rounds": len(rounds), **figures}
        both = [(rounds[number], ours[number]) for number in rounds if number in ours]
        row["slower"] = _spread([theirs["seconds"] / mine["seconds"] for theirs, mine in both])
        drawn = [(t, m) for t, m in both if t.get("drawn") and m.get("drawn")]
        per_token = [r["positions"] / r["drawn"] for r in rounds.values() if r.get("drawn") and "positions" in r]
        row["per_token"] = median(per_token) if per_token else None
        row["slower_per_token"] = _spread([(t["seconds"] / t["drawn"]) / (m["seconds"] / m["drawn"]) for t, m in drawn])
        exact = next(iter(groups.get((work, EXACT), {}).values()), {}).get("masses")
        if exact and way != EXACT:
            row["distance"] = distance((r["masses"] for r in rounds.values()), exact)
        rows.append(row)
    return rows


def distance(masses: Iterable[Json], exact: Json) -> float | None:
    """Total variation between a law and the one that unnormalised ``masses``, added up, estimate; None for no mass."""
    total: dict[str, float] = {}
    for each in masses:
        for cell, mass in each.items():
            total[cell] = total.get(cell, 0.0) + mass
    if not sum(total.values()):
        return None
    p, q = ({cell: mass / sum(law.values()) for cell, mass in law.items()} for law in (total, exact))
    return sum(abs(p.get(cell, 0.0) - q.get(cell, 0.0)) for cell in {*p, *q}) / 2


def markdown(result: Json, parts: Sequence[Part]) -> str:
    """A table for each part, with what it says and the command that made it."""
    texts = [f"Made by `{result['command']}` on {result['machine']['cpu']}, model {result['model']}.\n"]
    for part in parts:
        head, rows = shown(result, part)
        if rows:
            texts.append(f"## {part.title}\n\n{_TOLD[part.name]}\n\n{table([head, ['---'] * len(head), *rows])}")
    texts += [f"No figure: {name}: {reason}\n" for name, reason in result["missing"].items()]
    return "\n".join(texts)


def shown(result: Json, part: Part) -> tuple[list[str], list[list[str]]]:
    """The head of a part's table, and its rows."""
    columns = _COLUMNS[part.name]
    rows = [row for row in result["rows"] if row["part"] == part.name]
    return [name for name, _ in columns], [[tell(row) for _, tell in columns] for row in rows]


def _order(key: tuple[str, str], keys: Sequence[tuple[str, str]]) -> tuple[int, bool, str]:
    """Works as they came, ours first."""
    works = list(dict.fromkeys(work for work, _ in keys))
    return works.index(key[0]), not key[1].startswith(OURS), key[1]


def _figures(rounds: dict[int, Json]) -> list[str]:
    first = next(iter(rounds.values()))
    return [name for name, value in first.items() if name != "round" and isinstance(value, int | float)]


def _spread(values: Sequence[float]) -> Json | None:
    return {"median": median(values), "low": min(values), "high": max(values)} if values else None


def _number(name: str, form: str) -> Any:
    return lambda row: "" if row.get(name) is None else format(row[name], form)


def _ratio(name: str) -> Any:
    def tell(row: Json) -> str:
        found = row.get(name)
        return "" if found is None else f"{found['median']:.2f} ({found['low']:.2f} to {found['high']:.2f})"

    return tell


_START = [("work", lambda row: row["work"]), ("by", lambda row: row["way"]), ("rounds", _number("rounds", "d"))]
_SECONDS = ("seconds", _number("seconds", ".3f"))
_COLUMNS: dict[str, list[tuple[str, Any]]] = {
    "trees": [
        *_START,
        _SECONDS,
        ("positions", _number("positions", ",.0f")),
        ("tokens drawn", _number("drawn", ",.0f")),
        ("positions a token", _number("per_token", ".2f")),
        ("seconds a token, to ours", _ratio("slower_per_token")),
        ("requests", _number("requests", ",.0f")),
    ],
    "tokens": [
        *_START,
        _SECONDS,
        ("positions", _number("positions", ",.0f")),
        ("seconds, to ours", _ratio("slower")),
        ("distance to the exact law", _number("distance", ".3f")),
    ],
    "nodes": [
        *_START,
        ("nodes", _number("nodes", ",.0f")),
        ("microseconds a node", _number("microseconds", ",.0f")),
    ],
    "share": [
        *_START[:1],
        _START[2],
        _SECONDS,
        ("in the engine", _number("engine", ".3f")),
        ("in the forward pass", _number("forward", ".3f")),
        ("of the strategy's processor time", _number("strategy", ".3f")),
        ("outside it", _number("share", ".1%")),
    ],
}
_TOLD = {
    "trees": "The same problems, scores and temperature for all, and a fresh cache for each search. Positions are "
    "those that the model computed; ours are checked to be those of the tree, each once. Trees differ in size by "
    "chance, so seconds are compared by the token drawn: medians of the rounds' ratios, with the least and the most.",
    "tokens": "Populations resampled systematically below half their effective size, weights in float32 for both. "
    "Distances are total variation, of all rounds' populations together, between kinds of lines.",
    "nodes": f"Trees over a model that costs nothing: everything else is in it. Goal: {NODE_GOAL_US:,.0f}.",
    "share": f"Goal: below {SHARE_GOAL:.0%} of the time outside the forward pass. The engine's own part (scheduling, "
    "sampling, pages) is what lies between the two columns. A strategy runs on a thread of its own beside it; its "
    "processor time is what it can hold the engine up by at most.",
}
