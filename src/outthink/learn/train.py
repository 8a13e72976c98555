"""Training from scratch: one loop, resumable at any moment."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import tokenizers
import torch
from safetensors.torch import load_file
from torch import Tensor

from outthink.core.errors import CheckpointError, UserError
from outthink.learn.checkpoints import Progress, load_checkpoint, save_checkpoint, write_atomically
from outthink.learn.config import TrainConfig
from outthink.learn.data import DataConfig, StepData, problems
from outthink.learn.export import export_run
from outthink.learn.feed import StepFeed
from outthink.learn.grow import adopt_embeddings, grow_into
from outthink.learn.loss import LossConfig
from outthink.learn.optimizer import (
    learning_rate,
    make_optimizers,
    optimizer_tensors,
    restore_optimizers,
    set_learning_rate,
)
from outthink.learn.parallel import Gradients
from outthink.learn.report import Reporter, write_curve
from outthink.learn.sizes import Size, get_size, model_config, size_of
from outthink.learn.tokenizer import build_tokenizer
from outthink.models.fields import read_json
from outthink.models.transformer import Transformer

TOKENIZER_SAMPLES = 4000
GRAD_CLIP = 1.0
_MAX_PROCESSES = 8
_MAX_FEEDERS = 12
_CURVE_EVERY = 10


def train(config: TrainConfig) -> Path:
    """Train a model as ``config`` says and return the directory of its export, ``<out>/model``.

    Continues the run in ``config.out`` where there is one. Ctrl-C saves the state and raises KeyboardInterrupt.
    Raises UserError for settings that cannot be used and CheckpointError for a damaged run, before any compute.
    """
    config = config.resolve()
    run = Run(config)
    with (
        StepFeed(run.data_config, run.progress.step, _num_feeders(config)) as feed,
        run.gradients,
        Reporter(f"{config.size} on {config.suite}", config.quiet) as reporter,
        _interruptible() as stop,
    ):
        reporter.say(run.describe())
        run.start_clock()
        while run.done < 1 and not stop.is_set():
            loss = run.step(next(feed))
            reporter.step(run.progress, run.done, loss)
            run.save_if_due()
    run.save()
    write_curve(config.out, run.progress)
    if stop.is_set():
        raise KeyboardInterrupt(f"saved at step {run.progress.step}")
    return export_run(config.out, config.out / "model")


class Run:
    """The state of a training run: model, averaged weights, optimizers and how far it has come."""

    def __init__(self, config: TrainConfig) -> None:
        self.config = config
        self.device = _device(config.device)
        self.tokenizer = _open(config)
        size = get_size(config.size)
        self.model = Transformer(model_config(size, self.tokenizer.get_vocab_size(), config.context))
        self.model.init_weights(config.seed)
        if config.init_from is not None:
            self._begin_with(config.init_from, size)
        self.model.to(self.device)
        self.average = {name: p.detach().clone() for name, p in self.model.named_parameters()}
        self.optimizers = make_optimizers(self.model, config)
        self.progress = Progress()
        self._restore()
        self._loss_config = _loss_config(config)
        self.gradients = Gradients(self.model, self._loss_config, _num_processes(config))
        self._recent: list[float] = []
        self._saved_at = self._resumed_at = time.monotonic()
        self._seconds_before = self.progress.seconds

    def _begin_with(self, source: Path, size: Size) -> None:
        weights, small = load_file(source / "model.safetensors"), size_of(source)
        theirs = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
        name = "model.embed_tokens.weight"
        fresh = self.model.get_parameter(name).detach()[:, : small.hidden_size]
        weights[name] = adopt_embeddings(weights[name].float(), fresh, theirs, self.tokenizer)
        grow_into(self.model, weights, small, size, self.config.seed)

    @property
    def data_config(self) -> DataConfig:
        c = self.config
        assert c.batch_tokens is not None and c.micro_tokens is not None
        text = self.tokenizer.to_str()
        return DataConfig(c.suite, c.hardest, c.seed, text, c.batch_tokens, c.micro_tokens, c.widths, c.question_weight)

    @property
    def done(self) -> float:
        """The part of the run that is behind, in [0, 1]."""
        if self.config.steps is not None:
            return min(1.0, self.progress.step / self.config.steps)
        assert self.config.minutes is not None
        return min(1.0, self.progress.seconds / (60 * self.config.minutes))

    def describe(self) -> str:
        """One line on what is trained and how."""
        count = sum(p.numel() for p in self.model.parameters())
        kind = "bf16" if self._loss_config.bf16 else "f32"
        start = f"continues at step {self.progress.step:,}" if self.progress.step else "starts"
        return f"{self.config.size}: {count:,} parameters, {kind}, {self.config.optimizer}; {start}."

    def start_clock(self) -> None:
        """Count training time from now on."""
        self._saved_at = self._resumed_at = time.monotonic()

    def step(self, data: StepData) -> float:
        """One optimizer step on ``data``; the mean loss in nats for a unit of target weight."""
        assert data.step == self.progress.step
        rate = learning_rate(self.config, self.progress.step, self.done)
        set_learning_rate(self.optimizers, rate)
        loss = self.gradients.compute(data.batches, data.weight)
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), GRAD_CLIP)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self._average_weights()
        self._record(data, loss, rate)
        return loss

    def save_if_due(self) -> None:
        """Save where the last save is ``checkpoint_seconds`` ago."""
        if time.monotonic() - self._saved_at >= self.config.checkpoint_seconds:
            self.save()

    def save(self) -> Path:
        """Write a checkpoint of this very state."""
        groups = {"model": dict(self.model.named_parameters()), "average": self.average}
        groups["optimizer"] = optimizer_tensors(self.optimizers)
        tensors = {f"{kind}.{name}": tensor for kind, group in groups.items() for name, tensor in group.items()}
        path = save_checkpoint(self.config.out, self.progress, tensors)
        self._saved_at = time.monotonic()
        return path

    @torch.no_grad()
    def _average_weights(self) -> None:
        """Exponential moving average of the weights, over a window that grows with the run up to ``average_steps``."""
        window = min(self.config.average_steps, 1 + self.progress.step / 10)
        for name, parameter in self.model.named_parameters():
            self.average[name].lerp_(parameter, 1 / window)

    def _record(self, data: StepData, loss: float, rate: float) -> None:
        p = self.progress
        p.step, p.tokens, p.problems = p.step + 1, p.tokens + data.tokens, p.problems + data.problems
        p.too_long += data.too_long
        p.seconds = self._seconds_before + time.monotonic() - self._resumed_at
        self._recent.append(loss)
        if p.step % _CURVE_EVERY == 0:
            mean = sum(self._recent) / len(self._recent)
            p.curve.append([p.step, p.tokens, round(p.seconds, 1), round(mean, 5), rate])
            self._recent.clear()

    def _restore(self) -> None:
        found = load_checkpoint(self.config.out)
        if found is None:
            return
        self.progress, tensors = found
        groups: dict[str, dict[str, Tensor]] = {"model": {}, "average": {}, "optimizer": {}}
        for name, tensor in tensors.items():
            kind, rest = name.split(".", 1)
            groups[kind][rest] = tensor.to(self.device)
        self.model.load_state_dict(groups["model"])
        self.average = {name: groups["average"][name] for name in self.average}
        restore_optimizers(self.optimizers, groups["optimizer"])


def _open(config: TrainConfig) -> tokenizers.Tokenizer:
    """The tokenizer of the run in ``config.out``, which is begun where there is none."""
    record, file = config.out / "run.json", config.out / "tokenizer.json"
    if record.is_file():
        config.check_continues(read_json(record))
        write_atomically(record, config.to_json())  # what may change has perhaps changed
        try:
            return tokenizers.Tokenizer.from_file(str(file))
        except Exception as error:
            raise CheckpointError(f"{file}: not a tokenizer: {error}. Put back the run's own.") from error
    if config.out.is_dir() and any(config.out.iterdir()):
        raise UserError(f"{config.out} is not empty and holds no training run (no run.json); name another directory.")
    given = config.tokenizer or (config.init_from / "tokenizer.json" if config.init_from is not None else None)
    if given is not None:
        if not given.is_file():
            raise UserError(f"There is no tokenizer file {given}.")
        tokenizer = tokenizers.Tokenizer.from_file(str(given))
    else:
        tokenizer = build_tokenizer(
            sample_texts(config.suite, config.seed, TOKENIZER_SAMPLES, config.hardest), config.vocab_size
        )
    config.out.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(file))
    # Last, so that a directory with run.json always has the rest.
    write_atomically(record, config.to_json())
    return tokenizer


def _device(name: str) -> torch.device:
    try:
        device = torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(f"Device {name!r} cannot be used: {error}".split("\n")[0]) from error
    return device


def sample_texts(suite: str, seed: int, count: int, hardest: float = 1.0) -> Iterator[str]:
    """Prompts and solutions of ``count`` training problems, to learn merges on."""
    for _, problem in zip(range(count), problems(suite, "train", seed, hardest), strict=False):
        yield f"{problem.prompt}\n{problem.solution}"


def _loss_config(config: TrainConfig) -> LossConfig:
    on_cpu = config.device == "cpu"
    compiled = config.compile
    if compiled is None:
        # Compiling takes about half a minute for each row width.
        tools = ("g++", "clang++") if on_cpu else ("cc", "gcc", "clang")
        compiled = _lasts(config) and platform.system() != "Windows" and any(map(shutil.which, tools))
    return LossConfig(_uses_bf16(config), compiled, on_cpu)


def _lasts(config: TrainConfig) -> bool:
    """Whether a run is long enough for what speeds it up to pay for its start."""
    return (config.minutes or 0) >= 5 or (config.steps or 0) >= 500


def _num_processes(config: TrainConfig) -> int:
    if config.processes is not None:
        return config.processes
    return min(_num_cores(), _MAX_PROCESSES) if config.device == "cpu" and _lasts(config) else 1


def _num_feeders(config: TrainConfig) -> int:
    """A process makes some 250,000 tokens a second: more than CPUs train on, less than a GPU does."""
    return 1 if config.device == "cpu" else max(1, min(_num_cores() - 1, _MAX_FEEDERS))


def _num_cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _uses_bf16(config: TrainConfig) -> bool:
    if config.precision != "auto":
        return config.precision == "bf16"
    if config.device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.cuda.is_bf16_supported()


@contextmanager
def _interruptible() -> Iterator[threading.Event]:
    """An event that ctrl-C and SIGTERM set, instead of stopping the program in the middle of a step."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    kinds = (signal.SIGINT, signal.SIGTERM)
    before = [signal.signal(kind, lambda *_: stop.set()) for kind in kinds]
    try:
        yield stop
    finally:
        for kind, handler in zip(kinds, before, strict=True):
            signal.signal(kind, handler)
