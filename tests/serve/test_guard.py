"""Who gets in: keys on every path but one, sizes, shapes of paths, other sites' pages; one test a class of hole."""

import pytest

from outthink.core.errors import UserError
from outthink.serve.config import ServeConfig
from serve_world import Client, served

KEYS = ("first-key-of-two", "second-key-of-two")


@pytest.fixture(scope="module")
def locked(model):
    with served(model, api_keys=KEYS) as client:
        yield client


@pytest.mark.parametrize(
    "path",
    ["/v1/models", "/metrics", "/ready", "/version", "/openapi.json", "/api/status", "/v1/solves", "/api/methods",
     "//v1/models", "/v1//models", "/%76%31/models", "/v1/%6dodels", "/health/", "/health/../v1/models", "/HEALTH",
     "/health?x=/v1/models", "/./v1/models", "/v1\\models", "/no-such-path"],
)  # fmt: skip
@pytest.mark.parametrize("key", [None, "wrong-key-of-two", "first-key-of-tw", ""])
def test_nothing_but_health_and_the_page_itself_is_open(locked, path, key):
    answer = Client(locked.port, key).get(path)
    expected = {200} if path.startswith("/health?") else {401, 404}
    assert answer.status in expected
    assert b"data" not in answer.body or path.startswith("/health?")


def test_an_absolute_form_target_is_the_same_path(locked):
    import socket

    with socket.create_connection(("127.0.0.1", locked.port)) as raw:
        raw.sendall(
            b"GET http://localhost/health/../v1/models HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
        )
        answer = raw.recv(65536)
    assert answer.split(b" ")[1] in (b"400", b"401", b"404")


@pytest.mark.parametrize("key", KEYS)
def test_every_key_opens(locked, key):
    assert Client(locked.port, key).get("/v1/models").status == 200


def test_a_browser_is_asked_and_may_send_the_key_as_a_password(locked):
    import base64

    refused = Client(locked.port).get("/metrics")
    assert refused.status == 401 and {k.lower(): v for k, v in refused.headers.items()}["www-authenticate"].startswith(
        "Basic"
    )
    token = base64.b64encode(f"me:{KEYS[0]}".encode()).decode()
    assert Client(locked.port).get("/metrics", Authorization=f"Basic {token}").status == 200


def test_the_page_needs_a_key_too(locked):
    anyone, known = Client(locked.port), Client(locked.port, KEYS[0])
    for path in ("/", "/index.html", "/app.js", "/style.css", "/show/dom.js"):
        assert anyone.get(path).status == 401, path
        assert known.get(path).status == 200, path


def test_health_is_open_to_all(locked):
    assert Client(locked.port).get("/health").json == {"status": "ok"}


def test_tenants_share_no_cache_and_no_solves(locked, model):
    one, other = Client(locked.port, KEYS[0]), Client(locked.port, KEYS[1])
    request = {"prompt": "compute 17 + 5" * 8, "max_tokens": 1, "seed": 1}
    cold = one.post("/v1/completions", request).json["usage"]
    warm = one.post("/v1/completions", request).json["usage"]
    theirs = other.post("/v1/completions", request).json["usage"]
    assert cold["prompt_tokens_details"]["cached_tokens"] == theirs["prompt_tokens_details"]["cached_tokens"] == 0
    assert warm["prompt_tokens_details"]["cached_tokens"] > 0
    job = one.post("/v1/solves", {"problem": "compute 17 + 5", "thinking": {"budget": 200}}).json
    assert other.get(f"/v1/solves/{job['id']}").status == 404
    assert other.send("DELETE", f"/v1/solves/{job['id']}").status == 404
    assert other.get("/v1/solves").json["data"] == []
    assert one.get(f"/v1/solves/{job['id']}").status == 200
    assert one.send("DELETE", f"/v1/solves/{job['id']}").status == 200  # which it leaves when its pages are free


def test_pages_of_other_sites_are_refused(client):
    assert client.get("/v1/models", Origin="http://evil.example").status == 403
    assert client.get("/v1/models", Host="evil.example").status == 421
    assert client.get("/v1/models", Origin=f"http://127.0.0.1:{client.port}").status == 200


def test_sizes_are_bounded_before_anything_is_read(client):
    big = client.send("POST", "/v1/completions", b"x" * 10, {"Content-Length": str(1 << 40)})
    assert big.status == 413
    assert client.send("POST", "/v1/completions", b"[" + b"1," * (3 << 20) + b"1]").status == 413
    assert client.get("/v1/models", **{"X-Long": "x" * 40_000}).status in (400, 431)
    assert client.get("/health").status == 200


def test_answers_carry_an_id_and_do_not_tell_what_they_are_made_of(client):
    answer = client.get("/health", **{"X-Request-Id": "abc-1"})
    headers = {name.lower(): value for name, value in answer.headers.items()}
    assert headers["x-request-id"] == "abc-1" and not {"server", "x-powered-by", "via"} & headers.keys()
    forged = client.get("/health", **{"X-Request-Id": "a" * 200})
    assert {n.lower(): v for n, v in forged.headers.items()}["x-request-id"] != "a" * 200
    assert headers["x-content-type-options"] == "nosniff" and "default-src 'self'" in headers["content-security-policy"]


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.168.1.4", "example.org", ""])
def test_other_addresses_need_a_key(host):
    with pytest.raises(UserError, match="API key"):
        ServeConfig(host=host)
    assert ServeConfig(host=host, api_keys=KEYS).host == host


@pytest.mark.parametrize("key", ["short", "with a space in it", "ключ-ключ-ключ"])
def test_keys_that_cannot_be_sent_or_are_guessed_are_refused(key):
    with pytest.raises(UserError):
        ServeConfig(api_keys=(key,))


def test_loopback_needs_none():
    assert all(ServeConfig(host=host).loopback for host in ("127.0.0.1", "::1", "localhost", "127.5.5.5"))
