"""Records survive a kill at any byte, and are never mixed with those of another measurement."""

import gzip
import json

import pytest

from outthink.bench.journal import Journal
from outthink.core.errors import UserError

HEADER = {"what": "weights", "seed": 3}
RECORDS = [{"index": 0, "right": "0110"}, {"index": 1, "right": "1"}, {"index": 2, "right": "é"}]


@pytest.fixture
def out(tmp_path):
    return tmp_path / "some.json"


def written(out, records=RECORDS):
    journal = Journal(out, HEADER)
    for record in records:
        journal.append(record)
    return journal


def test_a_kill_at_any_byte_loses_at_most_the_line_that_it_cut(out):
    whole = written(out).path.read_bytes()
    for size in range(len(whole) + 1):
        journal = Journal(out, HEADER)
        journal.path.write_bytes(whole[:size])
        finished = max(0, whole[:size].count(b"\n") - 1)
        assert journal.read() == RECORDS[:finished]
        journal.append({"index": 9})
        assert Journal(out, HEADER).read() == [*RECORDS[:finished], {"index": 9}]


def test_packed_records_are_read_first_and_the_same_records_make_the_same_bytes(out):
    journal = written(out)
    journal.pack(RECORDS)
    packed = journal.packed.read_bytes()
    assert not journal.path.exists()
    assert [json.loads(line) for line in gzip.decompress(packed).splitlines()] == [HEADER, *RECORDS]
    journal.append({"index": 3})
    assert journal.read() == [*RECORDS, {"index": 3}]
    journal.pack(RECORDS)
    assert journal.packed.read_bytes() == packed


@pytest.mark.parametrize("pack", [False, True])
def test_records_of_something_else_are_refused(out, pack):
    journal = written(out)
    if pack:
        journal.pack(RECORDS)
    with pytest.raises(UserError, match=r"another measurement \(seed was 3 and is 4\): move it away, or name another"):
        Journal(out, {"what": "weights", "seed": 4}).read()


@pytest.mark.parametrize(
    ("name", "content"),
    [("some.records.jsonl", b"not json\n"), ("some.records.jsonl", b"[1]\n"), ("some.records.jsonl.gz", b"no gzip")],
)
def test_files_that_hold_something_else_are_named(out, name, content):
    (out.parent / name).write_bytes(content)
    with pytest.raises(UserError, match=name):
        Journal(out, HEADER).read()


def test_a_truncated_archive_is_named(out):
    journal = written(out)
    journal.pack(RECORDS)
    journal.packed.write_bytes(journal.packed.read_bytes()[:-9])
    with pytest.raises(UserError, match="no gzip file that can be read"):
        journal.read()
