"""A reward model learns the labels it is given, reads as transformers does, and goes on where it was stopped."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tokenizers
import torch
from safetensors.torch import load_file

from outthink.core.errors import CheckpointError, UserError
from outthink.kernels.reference.dense import dense_attend
from outthink.learn.checkpoints import list_checkpoints
from outthink.learn.export import export_model
from outthink.learn.parallel import Gradients
from outthink.learn.rewards.config import RewardConfig
from outthink.learn.rewards.documents import Encoder, documents_of
from outthink.learn.rewards.records import LabelledLine, LabelledProblem, StepLabel
from outthink.learn.rewards.scoring import load_reward, mean_log_probs, packed_reward_loss, score_documents
from outthink.learn.rewards.store import LabelFile, read_labels
from outthink.learn.rewards.train import RewardRun, train_reward
from outthink.learn.sizes import get_size, model_config
from outthink.lm.model import BUNDLED, bundled_models
from outthink.models.checkpoint import load_model
from outthink.models.transformer import Transformer
from outthink.tasks.suites import get_suite

SETTINGS = {
    "labels": "monte-carlo", "suite": "arithmetic", "split": "train", "hardest": 0.1, "model": "xs", "rollouts": 4,
    "temperature": 1.0,
}  # fmt: skip
VALUES = {"up": 1.0, "mid": 0.25, "down": 0.0}
PROBLEMS = get_suite("arithmetic").sample("train", 60, 2)


def write_labels(path: Path, problems=PROBLEMS, **settings) -> Path:
    with LabelFile(path, SETTINGS | settings) as file:
        for index, problem in enumerate(problems):
            lines = []
            for word, value in VALUES.items():
                text = f"{word}\nanswer: 1"
                end = len(word) + 1
                lines.append(LabelledLine(text, True, value == 1, (StepLabel(end, value, 4),)))
            file.append(LabelledProblem(index, problem, tuple(lines), 10, 10))
    return path


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a policy of random weights and a file of labels that can be learned from the step alone."""
    root = tmp_path_factory.mktemp("rewards")
    tokenizer = tokenizers.Tokenizer.from_file(str(BUNDLED / bundled_models()[0] / "tokenizer.json"))
    model = Transformer(model_config(get_size("XS"), tokenizer.get_vocab_size(), 256))
    model.init_weights(0)
    export_model(dict(model.named_parameters()), "XS", 256, tokenizer, root / "policy", "card")
    write_labels(root / "labels.jsonl.gz")
    return root


def config(world: Path, out: Path, **changes) -> RewardConfig:
    base = RewardConfig(
        "process", world / "labels.jsonl.gz", world / "policy", out, epochs=4, batch_tokens=512, micro_tokens=512,
        widths=(128,), compile=False, processes=1, precision="f32", warmup_steps=2, average_steps=5, heldout=0.2,
        learning_rate=1e-2, quiet=True,
    )  # fmt: skip
    return replace(base, **changes)


@pytest.fixture(scope="module")
def trained(world: Path) -> tuple[Path, dict]:
    return train_reward(config(world, world / "run"))


def documents(world: Path, kind: str = "process"):
    encoder = Encoder(tokenizers.Tokenizer.from_file(str(world / "policy" / "tokenizer.json")))
    return documents_of(read_labels(world / "labels.jsonl.gz")[1], encoder, kind)


def test_it_learns_soft_labels(world: Path, trained: tuple[Path, dict]) -> None:
    model, figures = trained
    assert figures["heldout_problems"] > 3
    assert figures["heldout_loss"] < 0.15 < 0.6 < figures["constant_loss"]
    made = documents(world)
    for row, document in zip(score_documents(load_reward(model).model, made), made, strict=True):
        for logit, (_, label) in zip(row, document.marks, strict=True):
            assert torch.sigmoid(torch.tensor(logit)).item() == pytest.approx(label, abs=0.12)


def test_transformers_reads_the_same_rewards_from_prefixes_alone(world: Path, trained: tuple[Path, dict]) -> None:
    from transformers import AutoModelForSequenceClassification

    directory, _ = trained
    theirs = AutoModelForSequenceClassification.from_pretrained(directory, dtype=torch.float32).eval()
    assert theirs.config.num_labels == 1 and theirs.config.id2label == {0: "reward"}
    assert theirs.config.pad_token_id == 0 and theirs.config.outthink_reward == "process"
    ours = load_reward(directory)
    assert ours.config.reward == "process"
    some = documents(world)[:9]
    for row, document in zip(score_documents(ours.model, some), some, strict=True):
        for logit, (position, _) in zip(row, document.marks, strict=True):
            with torch.no_grad():
                expected = theirs(torch.tensor([document.ids[: position + 1]])).logits
            assert expected.shape == (1, 1)
            assert logit == pytest.approx(expected.item(), rel=1e-4, abs=1e-4)


def test_likelihoods_are_the_means_of_the_policys_own(world: Path) -> None:
    model, some = load_model(world / "policy", "float32").model, documents(world)[:5]
    for row, document in zip(mean_log_probs(model, some), some, strict=True):
        ids, first = torch.tensor(document.ids), document.question_length
        with torch.no_grad():
            law = model.logits(model(ids, torch.arange(len(ids)), dense_attend(1, len(ids)))).log_softmax(-1)
        own = law[:-1].gather(1, ids[1:, None]).flatten()
        expected = [float(own[first - 1 : position].mean()) for position, _ in document.marks]
        assert row == pytest.approx(expected, rel=1e-4)


def test_the_checkpoint_is_whole_and_its_card_true(world: Path, trained: tuple[Path, dict]) -> None:
    directory, figures = trained
    config_json = json.loads((directory / "config.json").read_text())
    policy = json.loads((world / "policy" / "config.json").read_text())
    added = {"architectures", "num_labels", "id2label", "label2id", "outthink_reward"}
    assert {k: v for k, v in config_json.items() if k not in added} == {
        k: v for k, v in policy.items() if k != "architectures"
    }
    assert config_json["architectures"] == ["LlamaForSequenceClassification"]
    weights = load_file(directory / "model.safetensors")
    assert weights["score.weight"].shape == (1, policy["hidden_size"])
    assert {t.dtype for t in weights.values()} == {torch.bfloat16} and "lm_head.weight" not in weights
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (directory / name).read_bytes() == (world / "policy" / name).read_bytes()
    card = (directory / "README.md").read_text()
    assert f"{figures['marks']:,} labels on {figures['documents']:,} lines" in card
    assert f"{figures['heldout_loss']:.4f} nats" in card and "--kind process" in card


def test_an_outcome_reward_is_trained_on_the_ends_of_lines(world: Path, tmp_path: Path) -> None:
    _, figures = train_reward(config(world, tmp_path / "run", kind="outcome", steps=2))
    assert figures["marks"] == figures["documents"] == 3 * figures["problems"]
    assert all(len(d.marks) == 1 for d in documents(world, "outcome"))


@pytest.mark.parametrize("forgets", [False, True])
def test_three_steps_and_three_more_are_six_steps(world: Path, tmp_path: Path, forgets: bool) -> None:
    settings = {"steps": 6, "epochs": 2}
    train_reward(config(world, tmp_path / "whole", **settings))
    part = RewardRun(config(world, tmp_path / "parts", **settings).resolve())
    with part.gradients:
        for step in range(3):
            part.step(part.plan.step(step))
    if forgets:
        part.optimizers[0].state.clear()
    part.save()
    train_reward(config(world, tmp_path / "parts", **settings))
    one, other = (load_file(list_checkpoints(tmp_path / name)[-1] / "state.safetensors") for name in ("whole", "parts"))
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one) != forgets


@pytest.mark.slow
def test_gradients_of_two_processes_are_those_of_one(world: Path, tmp_path: Path) -> None:
    run = RewardRun(config(world, tmp_path / "run", micro_tokens=128).resolve())
    data = run.plan.step(0)
    assert len(data.batches) > 2
    with Gradients(run.model, run.gradients.config, 2, packed_reward_loss) as together:
        together.compute(data.batches, data.weight)  # the other process starts after the first step
        run.model.zero_grad()
        both = together.compute(data.batches, data.weight), [p.grad.clone() for p in run.model.parameters()]
    run.model.zero_grad()
    alone = run.gradients.compute(data.batches, data.weight), [p.grad for p in run.model.parameters()]
    assert both[0] == pytest.approx(alone[0], rel=1e-5)
    torch.testing.assert_close(both[1], alone[1], rtol=1e-3, atol=1e-6)


def test_mistakes_are_told(world: Path, trained: tuple[Path, dict], tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"other settings: seed \(0, now 1\)"):
        train_reward(config(world, world / "run", seed=1))
    with pytest.raises(UserError, match="kind is 'both'"):
        train_reward(config(world, tmp_path / "run", kind="both"))
    with pytest.raises(UserError, match="is a reward model already"):
        train_reward(config(world, tmp_path / "run", model=trained[0]))
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        train_reward(config(world, tmp_path / "run", model=tmp_path))
    with pytest.raises(UserError, match="holds a language model, not a reward model"):
        load_reward(world / "policy")
    outcomes = write_labels(tmp_path / "outcomes.jsonl.gz", labels="outcomes")
    with pytest.raises(UserError, match="labels of whole lines alone"):
        train_reward(config(world, tmp_path / "run", labels=outcomes))
    foreign = write_labels(tmp_path / "foreign.jsonl.gz", weights="0123456789abcdef")
    with pytest.raises(UserError, match="labels of lines by another model"):
        train_reward(config(world, tmp_path / "run", labels=foreign))
    test = write_labels(tmp_path / "test.jsonl.gz", get_suite("arithmetic").sample("test", 3, 0))
    with pytest.raises(UserError, match="holds test problems; only training problems"):
        train_reward(config(world, tmp_path / "run", labels=test))
    assert not (tmp_path / "run").exists(), "nothing is begun before the mistakes are told"


def test_more_labels_than_before_are_another_run(world: Path, tmp_path: Path) -> None:
    labels = write_labels(tmp_path / "labels.jsonl.gz", PROBLEMS[:30])
    train_reward(config(world, tmp_path / "run", labels=labels, steps=1))
    write_labels(tmp_path / "more" / "labels.jsonl.gz").replace(labels)
    with pytest.raises(UserError, match="has other labels than when the run"):
        train_reward(config(world, tmp_path / "run", labels=labels, steps=1))
