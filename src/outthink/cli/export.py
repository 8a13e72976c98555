"""Problems as files that lm-eval (EleutherAI's evaluation harness) runs without a network.

For each family: ``FAMILY.jsonl`` with one problem a line and ``outthink_FAMILY.yaml`` that names it as a task. For all:
``outthink_check.py``, by which the family's own exact checker judges answers, so that every right answer counts.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from outthink.cli.console import plain, write_text
from outthink.cli.tasks import record
from outthink.core.errors import UserError
from outthink.tasks.families import get_family
from outthink.tasks.problem import Problem, Split, check_difficulty
from outthink.tasks.suites import draw_problems, get_suite

_TASK = """\
task: {task}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {data_file}
test_split: test
output_type: generate_until
doc_to_text: "{{{{prompt}}}}"
doc_to_target: "{{{{solution}}}}"
generation_kwargs:
  until: []
  max_gen_toks: {max_tokens}
  do_sample: false
process_results: !function outthink_check.process_results
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
metadata:
  version: 1.0
"""

_GROUP = """\
group: outthink
task:
{tasks}aggregate_metric_list:
  - metric: exact_match
    aggregation: mean
    weight_by_size: true
metadata:
  version: 1.0
"""

_CHECK = '''\
"""Judges answers by the exact checkers of Outthink, which must be importable where lm-eval runs."""

from outthink.tasks.problem import Problem, parse_answer


def process_results(doc, results):
    """1 where the answer line of the one result is right, else 0."""
    problem = Problem(
        doc["family"],
        doc["difficulty"],
        doc["seed"],
        doc["prompt"],
        tuple(doc["steps"]),
        doc["answer"],
        doc["canonical"],
        doc["data"],
    )
    answer = parse_answer(results[0])
    return {"exact_match": float(answer is not None and problem.check(answer))}
'''


@dataclass(frozen=True)
class Exported:
    """What was written for one family."""

    family: str
    num_problems: int
    problems: Path
    task_file: Path
    task: str

    def to_json(self) -> dict[str, Any]:
        return {name: str(v) if isinstance(v, Path) else v for name, v in vars(self).items()}


def choose(
    suite: str | None,
    families: Sequence[str] | None,
    difficulties: Sequence[float] | None,
    num: int,
    split: Split,
    seed: int,
) -> list[Problem]:
    """``num`` problems of ``suite``, or of each family and difficulty; no two of them alike under renaming.

    Raises UserError where both a suite and families are given, and TaskError where there are not as many problems.
    """
    if not families:
        if difficulties:
            raise UserError("--difficulty goes with --family; a suite has difficulties of its own.")
        return get_suite(suite or "outthink-core").sample(split, num, seed)
    if suite is not None:
        raise UserError("Give either --suite or --family, not both.")
    known = [get_family(name).name for name in families]
    chosen = [check_difficulty(d) for d in difficulties or [0.5]]
    return [p for name in known for d in chosen for p in draw_problems(name, d, split, num, seed)]


def export_problems(directory: Path, problems: Sequence[Problem]) -> list[Exported]:
    """Write ``problems`` and their task files, a pair for each family, and the group ``outthink`` of all.

    Returns what was written, by family. Raises UserError where ``directory`` cannot be written.
    """
    try:
        directory.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"Cannot make {directory}: {error.strerror}.") from error
    by_family: dict[str, list[Problem]] = {}
    for problem in problems:
        by_family.setdefault(problem.family, []).append(problem)
    written = [_export_family(directory, name, by_family[name]) for name in sorted(by_family)]
    write_text(directory / "outthink_check.py", _CHECK)
    write_text(directory / "outthink.yaml", _GROUP.format(tasks="".join(f"  - {entry.task}\n" for entry in written)))
    return written


def _export_family(directory: Path, family: str, problems: Sequence[Problem]) -> Exported:
    data_file, task = directory / f"{family}.jsonl", f"outthink_{family}"
    task_file = directory / f"{task}.yaml"
    lines = [json.dumps(plain(record(problem)), allow_nan=False) for problem in problems]
    write_text(data_file, "".join(line + "\n" for line in lines))
    # A token spells at least a byte, so that no right solution is cut.
    longest = max(len(problem.solution.encode()) for problem in problems)
    quoted = json.dumps(str(data_file.resolve()))
    write_text(task_file, _TASK.format(task=task, data_file=quoted, max_tokens=longest + 1))
    return Exported(family, len(problems), data_file, task_file, task)
