"""Bytes that no client library sends, over a real socket: each is answered or hung up on, and nothing stays behind."""

import gc
import socket
import threading
import time
from collections import Counter

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from serve_world import served

KEYS = ("first-key-of-two", "second-key-of-two")
GOOD = b'{"prompt": "compute 17 + 5", "max_tokens": 2, "seed": 1}'
CHUNKED = b"%x\r\n%s\r\n0\r\n\r\n" % (len(GOOD), GOOD)
SOON = 60.0


@pytest.fixture(scope="module")
def open_server(model):
    with served(model, max_body=1 << 16, max_tokens=2000) as client:
        yield client
        assert client.get("/api/status").json["requests_running"] == 0
    assert not model.thread.call(model.engine.scheduler.leases), "a request left pages behind"


@pytest.fixture(scope="module")
def locked(model):
    with served(model, api_keys=KEYS) as client:
        yield client


def exchange(port, data, *, close=True):
    """Send ``data`` and read until the server hangs up; the status of the first answer, None where there was none."""
    with socket.create_connection(("127.0.0.1", port), timeout=SOON) as raw:
        try:
            raw.sendall(data)
            if close:
                raw.shutdown(socket.SHUT_WR)
        except OSError:  # it hung up before the end
            pass
        answer = b""
        try:
            while piece := raw.recv(1 << 16):
                answer += piece
        except ConnectionResetError:
            pass
    return (int(answer.split(b" ")[1]) if answer.startswith(b"HTTP/1.1 ") else None), answer


def post(body, path=b"/v1/completions", headers=(), kind=b"application/json", length=None):
    lines = [b"POST %s HTTP/1.1" % path, b"Host: localhost", b"Connection: close"]
    lines += [b"Content-Type: " + kind] if kind is not None else []
    lines += [b"Content-Length: %d" % (len(body) if length is None else length)] if length != b"" else []
    return b"\r\n".join([*lines, *headers, b"", b""]) + body


def get(path, headers=(b"Host: localhost",), version=b"HTTP/1.1", method=b"GET"):
    return b"\r\n".join([b"%s %s %s" % (method, path, version), b"Connection: close", *headers, b"", b""])


BODIES = {
    "nothing": b"",
    "a bracket": b"{",
    "text after": GOOD + b"{}",
    "an array": b"[]",
    "null": b"null",
    "a number": b"12",
    "NaN": b'{"prompt": "x", "temperature": NaN}',
    "Infinity": b'{"prompt": "x", "temperature": Infinity}',
    "-Infinity": b'{"prompt": "x", "logit_bias": {"1": -Infinity}}',
    "beyond a double": b'{"prompt": "x", "temperature": 1e999}',
    "a key twice": b'{"prompt": "x", "n": 1, "n": 4000}',
    "a key twice, escaped": b'{"prompt": "x", "n": 1, "\\u006e": 4000}',
    "a key twice, deep": b'{"prompt": "x", "stream_options": {"include_usage": true, "include_usage": false}}',
    "a huge int": b'{"prompt": "x", "seed": ' + b"9" * 5000 + b"}",
    "a negative int": b'{"prompt": "x", "n": -1}',
    "int64 + 1": b'{"prompt": "x", "max_tokens": 9223372036854775808}',
    "a float for an int": b'{"prompt": "x", "n": 1.5}',
    "deep arrays": b"[" * 60_000,
    "deep objects": b'{"a":' * 9_000 + b"1" + b"}" * 9_000,
    "deep in a field": b'{"prompt": ' + b"[" * 20_000 + b"]" * 20_000 + b"}",
    "no UTF-8": b'{"prompt": "\xff\xfe"}',
    "overlong UTF-8": b'{"prompt": "\xc0\xaf"}',
    "a surrogate in UTF-8": b'{"prompt": "\xed\xa0\x80"}',
    "half a pair": b'{"prompt": "\\ud800"}',
    "half a pair in a key": b'{"prompt": "x", "\\udc00": 1}',
    "UTF-16": '{"prompt": "x"}'.encode("utf-16"),
    "UTF-32": '{"prompt": "x"}'.encode("utf-32-le"),
    "a mark of order": b"\xef\xbb\xbf" + GOOD,
    "comments": b'{"prompt": "x" /* y */}',
    "single quotes": b"{'prompt': 'x'}",
    "a raw line break": b'{"prompt": "a\nb"}',
    "a NUL": b'{"prompt": "x"}\x00',
    "gzip": b"\x1f\x8b\x08\x00\x00\x00\x00\x00",
    "an unknown field": b'{"prompt": "x", "__proto__": {"n": 1}}',
    "a template of the client": b'{"prompt": "x", "chat_template": "{{ 1 }}"}',
}


@pytest.mark.parametrize("name", BODIES)
def test_no_malformed_body_passes(open_server, name):
    status, answer = exchange(open_server.port, post(BODIES[name]), close=False)
    assert status == 400 and b'{"error":{' in answer
    for word in (b"Traceback", b"pydantic", b"Error:", b"json.decoder", b"/site-packages/"):
        assert word not in answer


def test_the_good_body_among_them_does(open_server):
    """Else the others would prove nothing."""
    for kind in (b"application/json", b"application/json; charset=utf-8", b"Application/JSON"):
        assert exchange(open_server.port, post(GOOD, kind=kind), close=False)[0] == 200


@pytest.mark.parametrize(
    "kind", [None, b"", b"text/plain", b"text/json", b"application/x-www-form-urlencoded", b"multipart/form-data",
             b"application/json, text/plain", b"application/jsonp", b"\xff"],
)  # fmt: skip
def test_what_is_not_called_json_is_not_read_as_it(open_server, kind):
    assert exchange(open_server.port, post(GOOD, kind=kind), close=False)[0] in (400, 415)


REQUESTS = {
    "lengths that differ": post(GOOD, headers=[b"Content-Length: 5"]),
    "a length twice": post(GOOD, headers=[b"Content-Length: %d" % len(GOOD)]),
    "a list of lengths": post(GOOD, length=b"", headers=[b"Content-Length: 5, 6"]),
    "a length below 0": post(GOOD, length=-5),
    "a length of letters": post(GOOD, length=b"", headers=[b"Content-Length: ten"]),
    "a length with a sign": post(GOOD, length=b"", headers=[b"Content-Length: +%d" % len(GOOD)]),
    "a length of many digits": post(GOOD, length=b"", headers=[b"Content-Length: " + b"9" * 6000]),
    "a length above the limit": post(GOOD, length=1 << 40),
    "length and chunks": post(CHUNKED, headers=[b"Transfer-Encoding: chunked"]),
    "chunks and a length of none": post(CHUNKED, length=0, headers=[b"Transfer-Encoding: chunked"]),
    "an unknown coding": post(GOOD, length=b"", headers=[b"Transfer-Encoding: gzip, chunked"]),
    "chunked twice": post(GOOD, length=b"", headers=[b"Transfer-Encoding: chunked", b"Transfer-Encoding: chunked"]),
    "a chunk of letters": post(b"zz\r\nabc\r\n0\r\n\r\n", length=b"", headers=[b"Transfer-Encoding: chunked"]),
    "a chunk without end": post(b"FFFFFFFFFFFFFFFFFF\r\nabc", length=b"", headers=[b"Transfer-Encoding: chunked"]),
    "a chunk below 0": post(b"-5\r\nabc", length=b"", headers=[b"Transfer-Encoding: chunked"]),
    "chunks above the limit": post(
        b"8000\r\n%s\r\n" % (b" " * 0x8000) * 3 + b"0\r\n\r\n", length=b"", headers=[b"Transfer-Encoding: chunked"]
    ),
    "a chunk's long extension": post(
        b"1;" + b"x" * 70_000 + b"\r\n1\r\n0\r\n\r\n", length=b"", headers=[b"Transfer-Encoding: chunked"]
    ),
    "a body cut short": post(GOOD, length=len(GOOD) + 10),
    "no host": post(GOOD).replace(b"Host: localhost\r\n", b""),
    "two hosts": post(GOOD, headers=[b"Host: evil.example"]),
    "a foreign host": post(GOOD).replace(b"Host: localhost", b"Host: evil.example"),
    "a host that begins well": post(GOOD).replace(b"Host: localhost", b"Host: localhost.evil.example"),
    "a host with a user": post(GOOD).replace(b"Host: localhost", b"Host: localhost@evil.example"),
    "an empty host": post(GOOD).replace(b"Host: localhost", b"Host:"),
    "a foreign origin": post(GOOD, headers=[b"Origin: http://evil.example"]),
    "an opaque origin": post(GOOD, headers=[b"Origin: null"]),
    "two origins": post(GOOD, headers=[b"Origin: http://localhost", b"Origin: http://evil.example"]),
    "a fetch across sites": post(GOOD, headers=[b"Sec-Fetch-Site: cross-site", b"Sec-Fetch-Mode: no-cors"]),
    "a folded header": post(GOOD, headers=[b"X-A: 1\r\n folded: yes", b"Origin: http://evil.example"]),
    "a space before the colon": post(GOOD, headers=[b"Host : evil.example"]),
    "a header without a name": post(GOOD, headers=[b": x"]),
    "a NUL in a header": post(GOOD, headers=[b"X-A: \x00"]),
    "a bare CR": post(GOOD, headers=[b"X-A: 1\rX-B: 2"]),
    "a long header": post(GOOD, headers=[b"X-A: " + b"x" * 40_000]),
    "many headers": post(GOOD, headers=[b"X-%d: 1" % i for i in range(4000)]),
    "a long path": get(b"/" + b"a" * 70_000),
    "no path": b"GET HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "a method of its own": get(b"/v1/models", method=b"GE\x01T"),
    "CONNECT": get(b"localhost:80", method=b"CONNECT"),
    "TRACE": get(b"/v1/models", method=b"TRACE"),
    "HTTP/0.9": b"GET /health\r\n\r\n",
    "HTTP/2 to begin with": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "TLS": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200),
    "noise": bytes(range(256)) * 8,
    "nothing at all": b"",
    "a line break": b"\r\n\r\n",
    "to a websocket": get(
        b"/v1/models", headers=[b"Host: evil.example", b"Upgrade: websocket", b"Connection: Upgrade"]
    ),
    "an unknown expectation": post(b"", headers=[b"Expect: 200-ok"]),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_no_malformed_request_is_done(open_server, name):
    status, answer = exchange(open_server.port, REQUESTS[name])
    assert status is None or 400 <= status < 500
    assert b"Traceback" not in answer
    assert exchange(open_server.port, get(b"/health"), close=False)[0] == 200


def test_two_requests_in_one_are_two(locked):
    """What follows a body is a request of its own, and needs its own key."""
    first = post(GOOD, headers=[b"Authorization: Bearer " + KEYS[0].encode()]).replace(b"Connection: close\r\n", b"")
    _, answers = exchange(locked.port, first + get(b"/v1/models"), close=False)
    statuses = [int(part.split(b" ")[0]) for part in answers.split(b"HTTP/1.1 ")[1:]]
    assert statuses == [200, 401]


def test_a_body_of_two_lengths_ends_the_connection(locked):
    """What one reader takes for the next request may be body to another: none of what follows is read."""
    authorized = [b"Authorization: Bearer " + KEYS[0].encode()]
    chunked = post(CHUNKED, length=b"", headers=[*authorized, b"Transfer-Encoding: chunked"])
    assert exchange(locked.port, chunked, close=False)[0] == 200, "the body would do by itself"
    both = post(CHUNKED, headers=[*authorized, b"Transfer-Encoding: chunked"]).replace(b"Connection: close\r\n", b"")
    status, answers = exchange(locked.port, both + get(b"/health"), close=False)
    assert status == 400 and answers.count(b"HTTP/1.1 ") == 1 and b"connection: close" in answers.lower()


PATHS = [
    b"//v1/models",
    b"/v1//models",
    b"/v1/models//",
    b"/%76%31/models",
    b"/v1/%6dodels",
    b"/v1%2fmodels",
    b"/v1%2Fmodels",
    b"/%2e/v1/models",
    b"/health/../v1/models",
    b"/health/..;/v1/models",
    b"/health;/v1/models",
    b"/health%00/v1/models",
    b"/health/%2e%2e/v1/models",
    b"/health\\..\\v1\\models",
    b"/./v1/models",
    b"/HEALTH",
    b"/health/",
    b"/health#x",
    b"/Health?/v1/models",
    b"/v1/models/../../../../etc/passwd",
    b"/..%2f..%2fetc/passwd",
    b"/show/../../config.py",
    b"/%252e%252e/etc/passwd",
    b"http://localhost/v1/models",
    b"http://localhost/health",
    b"http://evil.example/health",
    b"https://localhost//v1/models",
    b"*",
    b"v1/models",
    b"\\v1\\models",
    b"/.git/config",
    b"/v1/models/%00",
    b"/\xff",
    b"/v1/models?\xff",
]


@pytest.mark.parametrize("path", PATHS)
def test_no_way_of_writing_a_path_goes_round_the_key(locked, path):
    for headers in (
        [b"Host: localhost"],
        [b"Host: localhost/health"],
        [b"Host: localhost", b"X-Original-URL: /health"],
    ):
        status, answer = exchange(locked.port, get(path, headers))
        assert status in (None, 400, 401, 404) and b"owned_by" not in answer and b"root:" not in answer


@pytest.mark.parametrize("path", [p for p in PATHS if not p.endswith(b"?/v1/models")])
def test_no_way_of_writing_a_path_leaves_the_files(open_server, path):
    status, answer = exchange(open_server.port, get(path))
    assert status in (None, 400, 404) and b"root:" not in answer and b"ServeConfig" not in answer


@seed(11)
@settings(max_examples=60, deadline=None, database=None, suppress_health_check=HealthCheck)
@given(st.data())
def test_requests_that_are_damaged_anywhere(open_server, data):
    whole = post(GOOD, headers=[b"Authorization: Bearer x", b"X-Request-Id: abc"])
    at = data.draw(st.integers(0, len(whole) - 1))
    cut = data.draw(st.integers(0, 12))
    put = data.draw(st.binary(max_size=12) | st.sampled_from([b"\r\n", b"\r\n\r\n", b"\x00", b'"', b"}", b"9" * 30]))
    status, answer = exchange(open_server.port, whole[:at] + put + whole[at + cut :])
    assert status is None or status == 200 or 400 <= status < 500, answer[:300]


def test_what_is_sent_leaves_nothing_behind(open_server, model):
    """The whole corpus once more costs no object, thread or task that was not there before."""
    corpus = [*REQUESTS.values(), *map(post, BODIES.values())]

    def flood():
        for request in corpus:
            exchange(open_server.port, request)

    def left():
        gc.collect()
        kinds = Counter(type(each).__name__ for each in gc.get_objects())
        threads = [t for t in threading.enumerate() if not t.name.startswith(("tokenizing", "asyncio_", "AnyIO"))]
        return kinds["Task"], kinds["Connection"], kinds["_Limited"], len(threads), kinds.total()

    flood()
    before = left()
    flood()
    end = time.monotonic() + SOON
    # What each request left would be there once for each: less than a tenth of them is what others do meanwhile.
    after = left()
    while any(now > then + len(corpus) // 10 for now, then in zip(after[:4], before[:4], strict=True)):
        assert time.monotonic() < end, (before, after)
        after = left()
    assert after[4] < before[4] + 20 * len(corpus)  # a request makes hundreds
    assert model.thread.call(model.engine.scheduler.leases) == []


def test_whoever_never_ends_a_head_is_hung_up_on(model):
    """A trickle does not put it off, nor does a first request that was whole."""
    with served(model, head_seconds=0.3) as client, socket.create_connection(("127.0.0.1", client.port)) as raw:
        raw.settimeout(SOON)
        raw.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert raw.recv(1 << 16).startswith(b"HTTP/1.1 200")
        ended = False
        while not ended:
            try:
                raw.sendall(b"X")
                raw.settimeout(0.05)
                ended = raw.recv(1 << 16) == b""
            except TimeoutError:
                continue
            except OSError:
                ended = True
    assert ended


def test_a_body_that_never_comes_is_given_up(model, monkeypatch):
    monkeypatch.setattr("outthink.serve.body.BODY_SECONDS", 0.2)
    with served(model) as client:
        assert exchange(client.port, post(GOOD, length=len(GOOD) + 1), close=False)[0] == 408
