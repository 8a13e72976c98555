"""Training from scratch: one loop, resumable at any moment."""

from __future__ import annotations

import platform
import shutil
from collections.abc import Iterator
from pathlib import Path

import tokenizers
from safetensors.torch import load_file

from outthink.core.errors import CheckpointError, UserError
from outthink.learn.checkpoints import write_atomically
from outthink.learn.config import TrainConfig
from outthink.learn.data import DataConfig, problems
from outthink.learn.export import export_run
from outthink.learn.feed import StepFeed
from outthink.learn.fit import Fit, interruptible, num_cores, num_processes, open_device, uses_bf16
from outthink.learn.grow import adopt_embeddings, grow_into
from outthink.learn.loss import LossConfig
from outthink.learn.report import Reporter, write_curve
from outthink.learn.sizes import Size, get_size, model_config, size_of
from outthink.learn.tokenizer import build_tokenizer
from outthink.models.fields import read_json
from outthink.models.transformer import Transformer

TOKENIZER_SAMPLES = 4000
_MAX_FEEDERS = 12


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
        interruptible() as stop,
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


class Run(Fit):
    """A training run of a language model."""

    def __init__(self, config: TrainConfig) -> None:
        device, size = open_device(config.device), get_size(config.size)
        self.tokenizer = _open(config)
        model = Transformer(model_config(size, self.tokenizer.get_vocab_size(), config.context))
        model.init_weights(config.seed)
        if config.init_from is not None:
            _begin_with(config.init_from, model, size, self.tokenizer, config.seed)
        self.settings = config
        processes = num_processes(config.processes, config.device, _lasts(config))
        super().__init__(config, model, device, _loss_config(config), processes)

    @property
    def data_config(self) -> DataConfig:
        c = self.settings
        assert c.batch_tokens is not None and c.micro_tokens is not None
        text = self.tokenizer.to_str()
        return DataConfig(c.suite, c.hardest, c.seed, text, c.batch_tokens, c.micro_tokens, c.widths, c.question_weight)

    def describe(self) -> str:
        """One line on what is trained and how."""
        count = sum(p.numel() for p in self.model.parameters())
        kind = "bf16" if self.gradients.config.bf16 else "f32"
        start = f"continues at step {self.progress.step:,}" if self.progress.step else "starts"
        return f"{self.settings.size}: {count:,} parameters, {kind}, {self.settings.optimizer}; {start}."


def _begin_with(source: Path, model: Transformer, size: Size, tokenizer: tokenizers.Tokenizer, seed: int) -> None:
    weights, small = load_file(source / "model.safetensors"), size_of(source)
    theirs = tokenizers.Tokenizer.from_file(str(source / "tokenizer.json"))
    name = "model.embed_tokens.weight"
    fresh = model.get_parameter(name).detach()[:, : small.hidden_size]
    weights[name] = adopt_embeddings(weights[name].float(), fresh, theirs, tokenizer)
    grow_into(model, weights, small, size, seed)


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
    return LossConfig(uses_bf16(config.precision, config.device), compiled, on_cpu)


def _lasts(config: TrainConfig) -> bool:
    """Whether a run is long enough for what speeds it up to pay for its start."""
    return (config.minutes or 0) >= 5 or (config.steps or 0) >= 500


def _num_feeders(config: TrainConfig) -> int:
    """A process makes some 250,000 tokens a second: more than CPUs train on, less than a GPU does."""
    return 1 if config.device == "cpu" else max(1, min(num_cores() - 1, _MAX_FEEDERS))
