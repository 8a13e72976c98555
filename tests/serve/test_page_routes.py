"""What the page asks of the server beside the API."""

from serve_world import Client, served


def finished(client, **thinking):
    job = client.post("/v1/solves", {"problem": "compute 17 + 5", "thinking": thinking, "seed": 3}).json
    return client.get(f"/api/solves/{job['id']}/view").events[-1]


def test_a_solve_is_drawn_until_it_is_over(client):
    last = finished(client, budget=400, strategy="majority-vote")
    told = client.get(f"/v1/solves/{last['id']}").json["posterior"]
    view = last["view"]
    assert (last["status"], view["live"], view["best"]) == ("done", False, told["best"])
    assert view["bill"]["tokens"] == told["cost"]["tokens"]
    assert [(a["answer"], a["share"]) for a in view["answers"]] == list(told["weights"].items())
    assert view["facts"]["budget"] == "400 tokens"


def test_a_solve_that_grows_is_drawn_and_a_cancelled_one_has_nothing_to_draw(waiting):
    job = waiting.post("/v1/solves", {"problem": "compute 17 + 5", "thinking": {"budget": 250_000}}).json
    assert waiting.get(f"/v1/solves/{job['id']}/tree.html").status == 409
    waiting.send("DELETE", f"/v1/solves/{job['id']}")
    [only] = waiting.get(f"/api/solves/{job['id']}/view").events
    assert (only["status"], only["view"]) == ("cancelled", None)


def test_a_finished_solve_is_a_file_that_stands_alone(client):
    last = finished(client, budget=400)
    answer = client.get(f"/v1/solves/{last['id']}/tree.html")
    headers = {name.lower(): value for name, value in answer.headers.items()}
    assert answer.status == 200 and answer.body.startswith(b"<!DOCTYPE html>")
    assert headers["content-disposition"] == f'attachment; filename="{last["id"]}.html"'
    assert client.get("/v1/solves/solve-unknown/tree.html").status == 404


def test_what_is_drawn_is_the_tenants_own(model):
    with served(model, api_keys=("first-key-of-two", "second-key-of-two")) as client:
        last = finished(client, budget=400)
        other = Client(client.port, "second-key-of-two")
        assert other.get(f"/api/solves/{last['id']}/view").status == 404
        assert other.get(f"/v1/solves/{last['id']}/tree.html").status == 404


def test_options_that_spend_a_budget_are_bounded(client):
    assert client.get("/api/options?strategy=majority-vote&tokens=800").json == {"n": 400}
    assert client.get("/api/options?strategy=majority-vote&tokens=1000000000").json == {"n": 4096}
    assert client.get("/api/options?strategy=greedy&tokens=800").json == {}
    for wrong in ("strategy=no-such&tokens=8", "strategy=greedy&tokens=0", "strategy=greedy", "tokens=8"):
        assert client.get(f"/api/options?{wrong}").status in (400, 404)


def test_every_strategy_that_is_offered_runs_with_the_options_that_it_is_offered_with(client):
    told = client.get("/api/methods").json
    names = {method["name"] for method in told["strategies"]}
    assert told["default_strategy"] in names and "speculative-steps" not in names
    for method in told["strategies"]:
        options = client.get(f"/api/options?strategy={method['name']}&tokens=50").json
        thinking = {"strategy": method["name"], "budget": 50, "options": options, "verifier": "likelihood"}
        answer = client.post("/v1/solves", {"problem": "compute 17 + 5", "thinking": thinking})
        assert answer.status == 202, (method["name"], answer.json)
        client.send("DELETE", f"/v1/solves/{answer.json['id']}")
