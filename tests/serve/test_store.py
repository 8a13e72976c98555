"""The job database, SQLite and a real PostgreSQL alike: what is kept, whose it is, which version, who works on it."""

import os
import sqlite3
import threading

import pytest
from sqlalchemy import event, text

from outthink.core.errors import UserError
from outthink.serve.batch_store import BatchStore
from outthink.serve.database import VERSION, Database, StoreError
from outthink.serve.rows import Result
from outthink.serve.store import Store
from postgres_world import postgres


@pytest.fixture(scope="module")
def server():
    with postgres() as running:
        yield running


@pytest.mark.parametrize("address", ["sqlite://", "sqlite:///{}/jobs.db"])
def test_threads_do_not_end_each_others_transactions(address, tmp_path):
    database = Database(address.format(tmp_path))
    store, kept = BatchStore(database), []

    def write(number):
        kept.extend(store.add_file("me", str(number), "batch", b"x").id for _ in range(30))

    def read(_):
        for _ in range(60):
            store.files("me", 1)

    threads = [threading.Thread(target=call, args=(n,)) for n in range(3) for call in (write, read)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(file.id for file in store.files("me", 200)) == sorted(kept) and len(kept) == 90
    database.close()


@pytest.mark.parametrize("mask", [0o000, 0o022])
def test_the_file_is_its_owners_alone(tmp_path, mask):
    before = os.umask(mask)
    try:
        database = Database(f"sqlite:///{tmp_path}/state/jobs.db")
        Store(database).add("me", "tiny", {"problem": "a secret"})
        modes = {file.name: oct(file.stat().st_mode & 0o777) for file in (tmp_path / "state").iterdir()}
        database.close()
    finally:
        os.umask(before)
    assert {"jobs.db", "jobs.db-wal", "jobs.db-shm"} <= modes.keys() and set(modes.values()) == {"0o600"}


def test_solves_that_are_over_go_oldest_first_and_others_stay(tmp_path):
    store = Store(Database("sqlite://"), kept=2)
    jobs = [store.add("me", "tiny", {"problem": str(number)}) for number in range(5)]
    theirs = store.add("you", "tiny", {"problem": "x"})
    for job in (jobs[3], jobs[0], jobs[2], theirs):
        store.set(job.id, "done", {})
    assert [job.id for job in store.recent("me", 9)] == [jobs[number].id for number in (4, 2, 1, 0)]
    assert not store.remove(jobs[4].id, "me"), "it is not over"
    assert not store.remove(jobs[2].id, "you") and store.remove(jobs[2].id, "me")
    assert [job.id for job in store.recent("you", 9)] == [theirs.id]
    store.close()


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/jobs.db"
        return
    database = Database(address := request.getfixturevalue("server").url)
    yield address
    with database.connections.begin() as connection:
        connection.execute(text("DROP TABLE IF EXISTS solves, settings, files, batches, batch_rows"))
    database.close()


@pytest.fixture
def database(url):
    database = Database(url)
    yield database
    database.close()


def test_a_job_is_kept_as_it_was_and_ends_once(database):
    store, asked = Store(database), {"problem": "\u0000 \ud800 2 + 2?", "seed": 1}
    job = store.add("me", "m", asked)
    assert store.get(job.id, "me") == job and store.get(job.id, "you") is None and store.recent("you", 5) == []
    store.set(job.id, "running")
    store.set(job.id, "done", {"best": "\u0000"})
    store.set(job.id, "cancelled")
    found = store.get(job.id, "me")
    assert (found.status, found.result, found.request) == ("done", {"best": "\u0000"}, asked)
    assert store.adopted("m") == []
    second = store.add("me", "m", asked)
    assert [each.id for each in store.recent("me", 5)] == [second.id, job.id]


def test_the_secret_stays(database, url):
    first = Store(database).secret
    other = Database(url)
    assert Store(other).secret == first and len(first) == 32
    other.close()


def test_files_are_pieces_of_bytes_and_belong_to_somebody(database):
    store, content = BatchStore(database), bytes(range(256)) * 20
    file = store.add_file("me", "a", "batch", content)
    assert store.content(file.id, "me") == content and store.content(file.id, "you") is None
    pieces = [store.piece(file.id, "me", start, 1000) for start in range(0, len(content), 1000)]
    assert b"".join(pieces) == content and store.piece(file.id, "you", 0, 9) == b""
    assert store.stored_bytes("me") == len(content) and store.stored_bytes("you") == 0
    assert not store.delete_file(file.id, "you") and store.delete_file(file.id, "me")
    assert store.file(file.id, "me") is None


def test_pages_of_a_list_meet_without_gap_or_overlap(database):
    store = BatchStore(database)
    names = [store.add_file("me", str(i), "batch", b"x").id for i in range(7)]
    store.add_file("you", "y", "batch", b"x")
    found, after = [], None
    while page := store.files("me", 3, after):
        found += [file.id for file in page]
        after = found[-1]
    assert found == names[::-1]


def test_a_batch_ends_in_files_in_one_transaction(database):
    store = BatchStore(database)
    batch = store.add("me", "m", "file-0", "/v1/completions", {"metadata": None})
    store.add_results(batch.id, [Result(2, False, "two"), Result(0, True, "zero")])
    assert store.counts(batch.id) == (1, 1) and [r.number for r in store.results(batch.id)] == [0, 2]
    with pytest.raises(StoreError):  # a row cannot be answered twice, and of several none is kept
        store.add_results(batch.id, [Result(3, False, "three"), Result(2, False, "again")])
    assert store.counts(batch.id) == (1, 1)
    store.finish(batch, "completed", {"a": 1}, [Result(1, True, "one")])
    done = store.get(batch.id, "me")
    assert done.status == "completed" and done.details["a"] == 1 and store.results(batch.id) == []
    assert store.content(done.details["output_file_id"], "me") == b"two\n"
    assert store.content(done.details["error_file_id"], "me") == b"zero\none\n"
    store.set(batch.id, "in_progress", {})
    assert store.get(batch.id, "me") == done


def test_work_is_taken_up_once_its_owner_is_dead_and_by_its_own_model(url):
    living, other = Database(url), Database(url)
    job = Store(living).add("me", "m", {"problem": "x"})
    batch = BatchStore(living).add("me", "m", "file-0", "/v1/completions", {})
    assert Store(other).adopted("m") == BatchStore(other).adopted("m") == []
    living.close()
    assert Store(other).adopted("n") == BatchStore(other).adopted("n") == []
    assert [each.id for each in Store(other).adopted("m")] == [job.id]
    assert [each.id for each in BatchStore(other).adopted("m")] == [batch.id]
    third = Database(url)
    assert Store(third).adopted("m") == []
    for each in (other, third):
        each.close()


def die(database):
    """End as a killed process does: its lock and its connections go, and nothing is written."""
    if database._lock is not None:
        os.close(database._lock)
        database._lock = None
    database.connections.dispose()


def test_deaths_are_counted_and_stops_are_not(url):
    database = Database(url)
    job, batch = Store(database).add("me", "m", {}), BatchStore(database).add("me", "m", "f", "/v1/completions", {})
    for count, end in enumerate((die, die, Database.close, die)):
        end(database)
        database = Database(url)
        expected = count + (count < 2)
        assert [(each.id, each.deaths) for each in Store(database).adopted("m")] == [(job.id, expected)]
        assert [(each.id, each.deaths) for each in BatchStore(database).adopted("m")] == [(batch.id, expected)]
    BatchStore(database).forgive(batch.id)
    assert BatchStore(database).get(batch.id, "me").deaths == 0
    database.close()


def test_of_many_that_start_at_once_one_takes_each_piece_up(url):
    dead = Database(url)
    jobs = {Store(dead).add("me", "m", {"problem": str(i)}).id for i in range(5)}
    dead.close()
    found, databases = [], [Database(url) for _ in range(4)]
    threads = [
        threading.Thread(target=lambda d=d: found.extend(job.id for job in Store(d).adopted("m"))) for d in databases
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for each in databases:
        each.close()
    assert sorted(found) == sorted(jobs)


def test_a_later_version_is_refused(database, url):
    with database.connections.begin() as connection:
        connection.execute(text(f"UPDATE settings SET value = '{VERSION + 1}' WHERE name = 'version'"))
    with pytest.raises(UserError, match="Upgrade"):
        Database(url)


@pytest.mark.parametrize("killed_half_way", [False, True])
def test_the_first_version_is_brought_up(tmp_path, killed_half_way):
    path = tmp_path / "jobs.db"
    with sqlite3.connect(path) as old:
        old.execute(
            "CREATE TABLE solves (id VARCHAR(64) PRIMARY KEY, tenant VARCHAR(64), created FLOAT, updated FLOAT, "
            "status VARCHAR(16), request TEXT, result TEXT)"
        )
        old.execute("CREATE TABLE settings (name VARCHAR(64) PRIMARY KEY, value TEXT)")
        old.execute("""INSERT INTO solves VALUES ('solve-1', 'me', 1, 1, 'running', '{"problem": "x"}', NULL)""")
        old.execute(f"INSERT INTO settings VALUES ('secret', '{'ab' * 32}')")
        if killed_half_way:
            old.execute("ALTER TABLE solves ADD COLUMN owner VARCHAR(64)")
    old.close()
    for _ in range(2):
        database = Database(f"sqlite:///{path}")
        assert [job.id for job in Store(database).adopted("m")] == ["solve-1"]
        assert Store(database).secret == b"\xab" * 32
        database.close()


def damaged(path):
    database = Database(f"sqlite:///{path}")
    BatchStore(database).add_file("me", "a", "batch", b"x" * 100_000)
    database.close()
    data = bytearray(path.read_bytes())
    data[8192:16384] = b"\xff" * 8192
    path.write_bytes(data)


def foreign(path):
    with sqlite3.connect(path) as other:
        other.execute("CREATE TABLE solves (x)")
    other.close()


@pytest.mark.parametrize(
    "make",
    [
        lambda path: path.write_bytes(b"no database at all" * 100),
        lambda path: path.write_bytes(b"SQLite format 3\0" + b"\0" * 500),
        lambda path: path.mkdir(),
        damaged,
        foreign,
    ],
)
def test_files_that_are_no_job_database_are_refused_with_what_to_do(tmp_path, make):
    make(path := tmp_path / "jobs.db")
    with pytest.raises(UserError, match=r"damaged|something else"):
        Database(f"sqlite:///{path}")


@pytest.mark.parametrize(
    "address",
    ["", "nonsense", "no-such-kind://x", "mysql://u:secretword@h/d", "postgresql://u:secretword@127.0.0.1:1/d",
     "sqlite:////proc/nothing/here.db"],
)  # fmt: skip
def test_addresses_that_lead_nowhere_are_refused_without_the_password(address):
    with pytest.raises(UserError) as refused:
        Database(address)
    assert "--database" in str(refused.value) and "secretword" not in str(refused.value)


def limit_pages(database, pages):
    """A disk that is full: SQLite says the same when no page can be added."""
    event.listen(database.connections, "connect", lambda c, _: c.execute(f"PRAGMA max_page_count={pages}"))
    database.connections.dispose()


def test_a_full_disk_refuses_and_takes_it_later(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/jobs.db")
    store = Store(database)
    job = store.add("me", "m", {"problem": "x"})
    limit_pages(database, 1)
    with pytest.raises(StoreError):
        store.set(job.id, "done", {"best": "x" * 100_000})
    assert store.get(job.id, "me").status == "queued"
    limit_pages(database, 1 << 20)
    store.set(job.id, "done", {"best": "x" * 100_000})
    assert store.get(job.id, "me").status == "done"
    database.close()


def test_a_database_that_went_away_is_used_again_once_it_is_back(server):
    database = Database(server.url)
    store = Store(database)
    job = store.add("me", "m", {"problem": "x"})
    server.stop()
    with pytest.raises(StoreError) as refused:
        store.set(job.id, "done", {})
    assert str(server.directory) not in str(refused.value)
    server.start()
    store.set(job.id, "done", {})
    assert store.get(job.id, "me").status == "done"
    database.close()
