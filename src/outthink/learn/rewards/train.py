"""Training a reward model: the policy's trunk, a scalar head, binary cross-entropy on soft labels."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import tokenizers
import torch
from safetensors.torch import load_file

from outthink.core.errors import CheckpointError, UserError
from outthink.learn.checkpoints import write_atomically
from outthink.learn.fit import Fit, interruptible, num_processes, open_device, uses_bf16
from outthink.learn.loss import LossConfig
from outthink.learn.report import Reporter, write_curve
from outthink.learn.rewards.card import reward_card
from outthink.learn.rewards.config import RewardConfig
from outthink.learn.rewards.documents import Encoder, RewardDocument, documents_of
from outthink.learn.rewards.export import export_reward, reward_config
from outthink.learn.rewards.plan import Plan
from outthink.learn.rewards.records import LabelledProblem
from outthink.learn.rewards.rollouts import weights_digest
from outthink.learn.rewards.scoring import mean_loss, packed_reward_loss, score_documents
from outthink.learn.rewards.store import read_labels
from outthink.models.config import ModelConfig
from outthink.models.fields import read_json
from outthink.models.transformer import Transformer

_HELDOUT_BUCKETS = 1000


def train_reward(config: RewardConfig) -> tuple[Path, dict[str, Any]]:
    """Train a reward model as ``config`` says; the directory of its export, ``<out>/model``, and its figures.

    Continues the run in ``config.out`` where there is one. Ctrl-C saves the state and raises KeyboardInterrupt.
    Raises UserError for settings or labels that cannot be used and CheckpointError for a damaged run or policy, before
    any compute.
    """
    run = RewardRun(config.resolve())
    with (
        run.gradients,
        Reporter(f"{config.kind} reward", config.quiet) as reporter,
        interruptible() as stop,
    ):
        reporter.say(run.describe())
        run.start_clock()
        while run.done < 1 and not stop.is_set():
            loss = run.step(run.plan.step(run.progress.step))
            reporter.step(run.progress, run.done, loss)
            run.save_if_due()
    run.save()
    write_curve(run.config.out, run.progress)
    if stop.is_set():
        raise KeyboardInterrupt(f"saved at step {run.progress.step}")
    return run.finish()


class RewardRun(Fit):
    """A training run of a reward model."""

    def __init__(self, config: RewardConfig) -> None:
        assert config.micro_tokens is not None
        device = open_device(config.device)
        tokenizer = _tokenizer(config.model)
        label_settings, found = read_labels(config.labels, config.label_tokens)
        _check_labels(config, label_settings, found)
        model = _with_head(config.model, config.kind)
        longest = min(config.widths[-1], model.config.max_positions)
        kept, heldout = _split(found, config.heldout)
        encoder = Encoder(tokenizer)
        all_documents = documents_of(kept, encoder, config.kind)
        self.documents = [document for document in all_documents if len(document.ids) <= longest]
        self.heldout = documents_of(heldout, encoder, config.kind)
        if not self.documents:
            raise UserError(f"{config.labels} has no label for a {config.kind} reward; label more problems.")
        self.data = _describe(label_settings, kept, self.documents, len(heldout))
        self.data["too_long"] = len(all_documents) - len(self.documents)
        on_cpu = config.device == "cpu"
        # Compiling takes about half a minute for each row width, more than it saves in a few minutes.
        compiled = (not on_cpu or (config.minutes or 0) >= 20) if config.compile is None else config.compile
        c = config
        self.plan = Plan(self.documents, c.seed, c.epochs, c.batch_tokens, c.widths, config.micro_tokens, compiled)
        self.settings = replace(config, steps=min(len(self.plan), config.steps or len(self.plan)))
        _open_run(self.settings, self.data)
        lasts = (config.minutes is None or config.minutes >= 2) and len(self.plan) >= 100
        loss = LossConfig(uses_bf16(config.precision, config.device), compiled, on_cpu)
        processes = num_processes(config.processes, config.device, lasts)
        super().__init__(self.settings, model, device, loss, processes, packed_reward_loss)

    def describe(self) -> str:
        """One line on what is trained and on what."""
        start = f"continues at step {self.progress.step:,}" if self.progress.step else "starts"
        marks, documents, problems = self.data["marks"], self.data["documents"], self.data["problems"]
        return f"{marks:,} labels on {documents:,} lines of {problems:,} problems, {len(self.plan):,} steps; {start}."

    def finish(self) -> tuple[Path, dict[str, Any]]:
        """Measure the averaged weights on the problems kept out, and export them with a card."""
        self.model.load_state_dict(self.average)
        config, settings = self.settings, self.settings.to_json()
        figures: dict[str, Any] = {"parameters": sum(p.numel() for p in self.model.parameters())}
        figures |= {"steps": self.progress.step, "seconds": round(self.progress.seconds, 1), **self.data}
        if self.heldout:
            figures |= _losses(self.model, self.heldout, self.documents)
        write_atomically(config.out / "figures.json", figures)
        card = reward_card(config.out.name, settings, self.data, self.progress, figures)
        return export_reward(self.average, config.model, config.kind, config.out / "model", card), figures


def _losses(model: Transformer, heldout: list[RewardDocument], trained: list[RewardDocument]) -> dict[str, float]:
    """The loss on held-out labels, and that of the constant which is the mean of the trained ones."""
    labels = [label for document in trained for _, label in document.marks]
    constant = float(torch.logit(torch.tensor(sum(labels) / len(labels)), eps=1e-6))
    return {
        "heldout_loss": mean_loss(score_documents(model, heldout), heldout),
        "constant_loss": mean_loss([[constant] * len(document.marks) for document in heldout], heldout),
    }


def _with_head(policy: Path, kind: str) -> Transformer:
    """The policy's trunk with a head of zeros, in float32."""
    raw = read_json(policy / "config.json")
    if "outthink_reward" in raw:
        raise UserError(f"{policy} is a reward model already; name the language model whose lines were labelled.")
    model = Transformer(ModelConfig.from_dict(reward_config(raw, kind, str(policy)), str(policy / "config.json")))
    stored = load_file(policy / "model.safetensors")
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name == "score.weight":
                parameter.zero_()
            elif name in stored and stored[name].shape == parameter.shape:
                parameter.copy_(stored[name])
            else:
                raise CheckpointError(f"{policy}: the tensor '{name}' is missing or of another shape.")
    return model


def _tokenizer(policy: Path) -> tokenizers.Tokenizer:
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        if not (policy / name).is_file():
            raise CheckpointError(f"{policy} has no {name}: name the directory of the language model as --model.")
    return tokenizers.Tokenizer.from_file(str(policy / "tokenizer.json"))


def _check_labels(config: RewardConfig, settings: dict[str, Any], found: list[LabelledProblem]) -> None:
    """Only training problems may be learned from, labelled by the trunk's own lines; a process reward needs steps'."""
    if settings.get("weights") not in (None, weights_digest(config.model)):
        raise UserError(
            f"{config.labels} holds labels of lines by another model, {settings.get('model')!r}, with other weights "
            f"than {config.model}: name that one as --model, or label again."
        )
    wrong = [record.problem for record in found if record.problem.split != "train"]
    if wrong:
        raise UserError(f"{config.labels} holds {wrong[0].split} problems; only training problems are trained on.")
    if config.kind == "process" and settings["labels"] == "outcomes":
        raise UserError(
            f"{config.labels} has labels of whole lines alone: label with --labels monte-carlo or binary-search for a "
            "process reward, or train --kind outcome."
        )


def _split(found: list[LabelledProblem], share: float) -> tuple[list[LabelledProblem], list[LabelledProblem]]:
    """Problems to train on and problems to keep out, by a hash of their canonical form."""
    kept, heldout = [], []
    for record in found:
        digest = hashlib.blake2b(record.problem.canonical_key.encode(), digest_size=8).digest()
        bucket = int.from_bytes(digest) % _HELDOUT_BUCKETS
        (heldout if bucket < share * _HELDOUT_BUCKETS else kept).append(record)
    return kept, heldout


def _describe(
    settings: dict[str, Any], kept: list[LabelledProblem], documents: list[RewardDocument], num_heldout: int
) -> dict[str, Any]:
    """What was trained on, with a digest of the very documents, as JSON values."""
    content = json.dumps([[list(d.ids), d.marks] for d in documents]).encode()
    return {
        "settings": settings,
        "problems": len(kept),
        "heldout_problems": num_heldout,
        "documents": len(documents),
        "marks": sum(len(d.marks) for d in documents),
        "tokens": sum(record.tokens for record in kept),
        "digest": hashlib.blake2b(content, digest_size=8).hexdigest(),
    }


def _open_run(config: RewardConfig, data: dict[str, Any]) -> None:
    """Begin the run in ``config.out``, or check that it is this very one."""
    record = config.out / "run.json"
    if record.is_file():
        earlier = read_json(record)
        config.check_continues(earlier)
        if earlier.get("digest") != data["digest"]:
            raise UserError(
                f"{config.labels} has other labels than when the run in {config.out} began; train into another "
                "directory."
            )
    elif config.out.is_dir() and any(config.out.iterdir()):
        raise UserError(f"{config.out} is not empty and holds no training run (no run.json); name another directory.")
    config.out.mkdir(parents=True, exist_ok=True)
    write_atomically(record, config.to_json() | {"digest": data["digest"]})
