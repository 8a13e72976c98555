"""The file of labels survives being cut anywhere, and is never mistaken for another."""

import gzip
import json
from pathlib import Path

import pytest

from outthink.core.errors import CheckpointError, UserError
from outthink.learn.rewards.records import LabelledLine, LabelledProblem, StepLabel
from outthink.learn.rewards.store import LabelFile, read_labels
from outthink.tasks.suites import get_suite

SETTINGS = {"what": "labels", "labels": "monte-carlo", "seed": 3, "hardest": 0.5}
PROBLEMS = get_suite("outthink-core").sample("train", 12, 0)
RECORDS = [
    LabelledProblem(
        index,
        problem,
        (LabelledLine(problem.solution, True, True, (StepLabel(7, 1 / 3, 6), StepLabel(9, 0.0, 0))),),
        prompt=10 + index,
        decoded=100,
    )
    for index, problem in enumerate(PROBLEMS)
]


def write(path: Path, records=RECORDS) -> bytes:
    with LabelFile(path, SETTINGS) as file:
        for record in records:
            if record.index not in file.done:
                file.append(record)
    return path.read_bytes()


def test_what_was_written_is_read_for_every_family(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl.gz"
    write(path)
    settings, found = read_labels(path)
    assert settings == {"format": 1, **SETTINGS}
    for record, expected in zip(found, RECORDS, strict=True):
        assert record.problem == expected.problem and record.problem.check(expected.problem.answer)
        assert record.problem.extendable(expected.problem.solution + "\n")
        assert record.lines[0].steps[0].value == pytest.approx(1 / 3, abs=1e-6)
        assert record.tokens == expected.tokens and record.lines[0].text == expected.lines[0].text
    with gzip.open(path, "rt") as lines:  # an ordinary file for everybody else
        assert len([json.loads(line) for line in lines]) == 1 + len(RECORDS)


def test_a_file_cut_anywhere_continues_to_the_very_same_one(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl.gz"
    whole = write(path)
    ends = [0]
    for record in range(len(RECORDS) + 1):
        cut = tmp_path / f"{record}.jsonl.gz"
        ends.append(len(write(cut, RECORDS[:record])))
    for size in [
        *range(0, len(whole), 97),
        *(end + d for end in ends for d in (-1, 0, 1) if 0 <= end + d < len(whole)),
    ]:
        path.write_bytes(whole[:size])
        with LabelFile(path, SETTINGS) as file:
            # Lost is only the line in which it was cut.
            assert len(file.done) == max(0, sum(end <= size for end in ends[1:]) - 1)
        assert write(path) == whole


def test_without_cutting_the_torn_line_off_it_could_not_be_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl.gz"
    whole = write(path, RECORDS[:4])
    path.write_bytes(whole[:-20])
    with path.open("ab") as file:
        file.write(whole[-200:])
    with pytest.raises(CheckpointError, match=r"damaged at byte .*truncate -s"):
        read_labels(path)


def test_labels_are_taken_in_order_as_far_as_the_tokens_reach(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl.gz"
    write(path, [RECORDS[2], RECORDS[0], RECORDS[1]])
    costs = [record.tokens for record in RECORDS]
    for most, expected in ((costs[0], 1), (costs[0] + costs[1] - 1, 1), (costs[0] + costs[1], 2), (10_000, 3)):
        assert [record.index for record in read_labels(path, most)[1]] == list(range(expected))
    with pytest.raises(UserError, match="no labels yet"):
        read_labels(path, costs[0] - 1)


def test_other_settings_and_other_files_are_refused_and_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "labels.jsonl.gz"
    whole = write(path)
    with pytest.raises(UserError, match=r"other settings: seed \(3, now 4\)"):
        LabelFile(path, {**SETTINGS, "seed": 4})
    assert path.read_bytes() == whole
    for number, content in enumerate((b"text", gzip.compress(b"no json"), gzip.compress(b'{"a": 1}'), b"x" * 9000)):
        other = tmp_path / f"other-{number}.jsonl.gz"
        other.write_bytes(content)
        with pytest.raises(UserError):
            LabelFile(other, SETTINGS)
        with pytest.raises(UserError):
            read_labels(other)
        assert other.read_bytes() == content
    with pytest.raises(UserError, match=r"must end in \.jsonl\.gz"):
        LabelFile(tmp_path / "labels.json", SETTINGS)
    with pytest.raises(UserError, match="no file of labels"):
        read_labels(tmp_path / "none.jsonl.gz")
