"""Verifiers by name, as commands and `solve` take them: found, opened beside the policy, closed; clear mistakes."""

import json
import shutil
import threading

import pytest
import typer.testing

import outthink
from hf_models import make_hf_model, make_hf_reward
from outthink.cli import app as cli
from outthink.cli.options import VerifierOption
from outthink.core.budget import Budget, Ledger
from outthink.core.errors import CheckpointError, UnknownNameError, UserError
from outthink.core.question import Question
from outthink.core.sampling import Sampling, Until
from outthink.lm.toy import ToyLM, random_law
from outthink.models import rewards
from outthink.verify import VERIFIERS, check_spec, opened
from outthink.verify.compose import Mixture, Product, Staged, Threshold

SMALL = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "max_position_embeddings": 256}


@pytest.fixture(scope="module")
def shelf(tmp_path_factory):
    """A policy with reward models of its own, as they are bundled, and some of another's."""
    directory = tmp_path_factory.mktemp("shelf")
    make_hf_model("llama", directory / "outthink-m", **SMALL)
    make_hf_reward("llama", directory / "outthink-m-prm", seed=1, **SMALL)
    make_hf_reward("qwen3", directory / "outthink-m-orm", seed=2, outthink_reward="outcome", **SMALL)
    make_hf_reward("llama", directory / "another-prm", seed=3, outthink_reward="process", **SMALL)
    return directory


@pytest.fixture
def bundled(shelf, monkeypatch):
    for module in (rewards, outthink.lm.model):
        monkeypatch.setattr(module, "BUNDLED", shelf)
    return shelf


@pytest.fixture(scope="module")
def policy(shelf):
    with outthink.load(shelf / "outthink-m") as model:
        yield model


def solve(model, spec, strategy="best-of-n", seed=1, **options):
    sampling = Sampling(seed=seed)
    return outthink.solve(
        "what is 3?", model=model, strategy=strategy, verifier=spec, sampling=sampling, max_tokens=12, **options
    )


def leased(model):
    for engine in model.thread._engines:
        model.thread.call(engine.check_integrity)
        yield model.thread.call(lambda engine=engine: engine.cache.num_leased(engine.scheduler.leases()))


def engine_threads():
    return sum(thread.name == "outthink-engine" for thread in threading.enumerate())


@pytest.mark.parametrize("strategy", ["best-of-n", "weighted-vote", "step-beam", "particle-filter", "mcts"])
def test_strategies_are_judged_by_a_reward_model_beside_the_policy(policy, shelf, strategy):
    specs = [f"prm:{shelf}/outthink-m-prm:mean", f"orm:{shelf}/outthink-m-orm", f"prm:{shelf}/outthink-m-prm"]
    for spec in specs:
        found = solve(policy, spec, strategy, n=4)
        assert found.cost.verifier_calls >= 4
        if spec.startswith("orm") and strategy in ("step-beam", "mcts"):
            continue  # none of these lines comes to an end, and an outcome is read of finished ones alone
        assert 0 < found.cost.verifier_tokens < found.cost.tokens
        assert 0 < found.cost.verifier_flops < found.cost.flops
        assert f"({found.cost.verifier_tokens:,} of the tokens" in str(found.cost)
        assert found.cost.to_json()["verifier_flops"] == found.cost.verifier_flops
    again = solve(policy, specs[-1], strategy, n=4)
    assert [x.value for x in again.tree.walk()] == [x.value for x in found.tree.walk()]
    assert [x.text for x in again.tree.walk()] == [x.text for x in found.tree.walk()]
    assert len(policy.thread._engines) == 3, "each model is loaded once, however often it is asked for"
    assert list(leased(policy)) == [0, 0, 0]


@pytest.mark.parametrize("tokens", [0, 5, 30, 100, 250])
def test_budgets_hold_for_policy_and_verifier_together(policy, shelf, tokens):
    for strategy in ("best-of-n", "step-beam", "particle-filter"):
        found = solve(policy, f"prm:{shelf}/outthink-m-prm", strategy, n=8, budget=Budget(tokens=tokens))
        assert found.cost.tokens <= tokens
    assert not any(leased(policy))


async def test_a_model_elsewhere_is_judged_on_a_thread_that_ends_with_it(shelf):
    before, question = engine_threads(), Question("ab", lambda text: None)
    lm = ToyLM(random_law(0, 4), "abc", sampling=Sampling(seed=1))
    root = await lm.root("ab")
    lines = await root.extend(3, Until(5))
    async with opened(f"prm:{shelf}/outthink-m-prm", lm) as judge:
        assert judge is not None and judge.model.thread is not None
        scores = await judge.score(question, lines, lm.ledger)
        assert len(set(scores)) > 1 and max(scores) < 0
        assert engine_threads() == before + 1
    assert engine_threads() == before
    assert lm.ledger.bill.verifier_tokens > 0
    async with opened("self-evaluation") as plain, opened(None) as none, opened(judge) as same:
        assert (plain.name, none, same) == ("self-evaluation", None, judge)


def test_the_bundled_one_is_the_policys_own(bundled, policy):
    names = {name: rewards.find_reward(None, "process", name).name for name in ("outthink-m", "another", "else", "")}
    own, other = "outthink-m-prm", "another-prm"
    assert names == {"outthink-m": own, "another": other, "else": other, "": other}
    assert rewards.find_reward(None, "outcome").name == "outthink-m-orm"
    assert rewards.find_reward("another-prm", "process") == bundled / "another-prm"
    assert outthink.lm.model.bundled_models() == ["outthink-m"]
    assert solve(policy, "prm:min", n=2).cost.verifier_tokens > 0
    check_spec("orm")


def test_none_bundled_says_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setattr(rewards, "BUNDLED", tmp_path)
    with pytest.raises(CheckpointError, match=r"No process reward model is bundled.*--verifier prm:DIRECTORY"):
        check_spec("prm")
    with pytest.raises(CheckpointError, match=r"No outcome reward model.*orm:DIRECTORY"):
        outthink.solve("compute 1 + 1", verifier="orm", strategy="best-of-n")


def test_mistakes_are_told_before_anything_is_loaded(shelf, tmp_path):
    for spec, error, message in (
        ("prn", UnknownNameError, "Did you mean 'prm'"),
        ("exact:1", UserError, "takes nothing after a colon"),
        (f"prm:{shelf}/outthink-m", CheckpointError, "is a language model and not a reward model"),
        (f"prm:{shelf}/outthink-m-orm", CheckpointError, "reward model of the outcome; use it as --verifier orm"),
        (f"orm:{shelf}/another-prm", CheckpointError, "reward model of the process"),
        (f"prm:{tmp_path}/none", CheckpointError, "There is no directory"),
        (f"prm:{shelf}/another-prm:median", UnknownNameError, "Did you mean 'mean'"),
    ):
        with pytest.raises(error, match=message):
            check_spec(spec)
    with pytest.raises(CheckpointError, match=r"it judges lines, as --verifier prm:"):
        outthink.load(shelf / "another-prm")


def test_a_damaged_reward_model_says_so(shelf, tmp_path, policy):
    shutil.copytree(shelf / "another-prm", tmp_path / "short")
    config = json.loads((tmp_path / "short" / "config.json").read_text())
    (tmp_path / "short" / "config.json").write_text(json.dumps(config | {"hidden_size": 24}))
    with pytest.raises(CheckpointError, match="the config implies"):
        solve(policy, f"prm:{tmp_path}/short", n=2)
    assert solve(policy, f"prm:{shelf}/another-prm", n=2).cost.verifier_tokens > 0


def test_commands_know_every_verifier():
    help_text = VerifierOption.__metadata__[0].help
    missing = [name for name in VERIFIERS.names() if name not in help_text]
    assert not missing, f"--verifier does not tell of {missing}"
    shown = typer.testing.CliRunner().invoke(cli.app, ["solve", "--help"], env={"COLUMNS": "200"}).output
    assert "self-evaluation" in shown and "step-oracle" in shown


def test_ledgers_for_verifiers_mark_all_they_are_charged():
    whole = Ledger(Budget(tokens=100))
    part = whole.slice(Budget(tokens=60))
    judging = part.for_verifier()
    whole.charge(prefilled=3, decoded=4, flops=70, cached=9)
    judging.charge(prefilled=10, decoded=5, flops=20, cached=7, verifier_calls=2)
    judging.for_verifier().charge(prefilled=1, flops=1)
    for ledger, tokens in ((judging, 23), (part, 23), (whole, 39)):
        bill = ledger.bill
        assert (bill.tokens, bill.verifier_tokens, bill.verifier_flops, bill.verifier_calls) == (tokens, 23, 21, 2)
    assert whole.bill.flops == 91 and judging.tokens_left == 37
    part.cancel()
    assert judging.exhausted and not whole.exhausted


@pytest.mark.parametrize(
    ("spec", "made"),
    [
        ("product(likelihood, entropy)", lambda a, b: Product(a, b)),
        ("product(likelihood, 2, entropy, 0.5)", lambda a, b: Product(a, b, powers=(2, 0.5))),
        ("mixture( likelihood,0.7,entropy,0.3 )", lambda a, b: Mixture(a, b, shares=(7, 3))),
        ("threshold(likelihood, at=-1.5, hard=true)", lambda a, b: Threshold(a, -1.5, hard=True)),
        ("staged(likelihood, entropy)", lambda a, b: Staged(a, b)),
        (
            "product(threshold(likelihood, at=-2), mixture(entropy, likelihood))",
            lambda a, b: Product(Threshold(a, -2), Mixture(b, a)),
        ),
    ],
)
async def test_composed_in_one_word_as_in_python(spec, made):
    lm = ToyLM(random_law(3, 4), "abc", Ledger(), Sampling(seed=4, top_logprobs=5), context=6)
    question = Question("ab", lambda text: text[-1:] or None)
    expected = made(VERIFIERS.get("likelihood")(), VERIFIERS.get("entropy")())
    async with await lm.root("ab") as root, opened(spec, lm) as judge:
        lines = await root.extend(5, Until(max_tokens=3))
        found = await judge.score(question, lines, lm.ledger)
        assert found == await expected.score(question, lines, lm.ledger) and len(set(found)) > 1
        assert (judge.name, judge.partial, judge.sound) == (expected.name, expected.partial, expected.sound)


@pytest.mark.parametrize(
    "spec",
    [
        "product()",
        "product(likelihood, 0, entropy, 1)",
        "product(likelihood, 1, entropy)",
        "threshold(likelihood, at=low)",
        "threshold(likelihood, at=0, accept=-1)",
        "threshold(likelihood, hard=1)",
        "threshold(likelihood, entropy)",
        "staged(likelihood)",
        "product(likelihood, powers=2)",
        "likelihood(entropy)",
        "product(likelihood, entropy",
        "product(likelihood, entropy) x",
        "product(likelihood, likelihood:3)",
    ],
)
def test_a_composition_that_cannot_be_is_refused(spec):
    with pytest.raises(UserError):
        check_spec(spec)


def test_an_unknown_part_is_named():
    with pytest.raises(UnknownNameError, match="likelyhood"):
        check_spec("product(prm, likelyhood)")
