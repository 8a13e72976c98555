"""Exported models load in transformers and here, and compute what was trained."""

from pathlib import Path

import pytest
import torch

from learn_runs import tiny
from outthink.core.errors import CheckpointError
from outthink.kernels.reference.dense import dense_attend
from outthink.learn.checkpoints import load_checkpoint
from outthink.learn.evaluate import attempt
from outthink.learn.export import export_run
from outthink.learn.sizes import SIZES, get_size, model_config
from outthink.learn.train import Run, train
from outthink.models.checkpoint import load_model
from outthink.models.transformer import Transformer
from outthink.tasks.suites import draw_problems


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tiny(tmp_path_factory.mktemp("learn") / "run", steps=4))


def test_transformers_computes_the_same_logits(exported: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32).eval()
    ours = load_model(exported, dtype="float32")
    text = ours.tokenizer.render_chat([{"role": "user", "content": "compute (12 + 3) * 4"}])
    ids = torch.tensor(ours.tokenizer.encode(text))
    assert AutoTokenizer.from_pretrained(exported)(text)["input_ids"] == ids.tolist()
    with torch.no_grad():
        expected = theirs(ids[None]).logits[0]
        got = ours.model.logits(ours.model(ids, torch.arange(len(ids)), dense_attend(1, len(ids))))
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 1e-3


def test_greedy_texts_are_those_of_transformers(exported: Path) -> None:
    from tokenizers import Tokenizer
    from transformers import AutoModelForCausalLM, AutoTokenizer

    theirs, tokenizer = AutoModelForCausalLM.from_pretrained(exported, dtype=torch.float32), None
    tokenizer = AutoTokenizer.from_pretrained(exported)
    problems = draw_problems("arithmetic", 0.5, "validation", 6, 0)
    ours = attempt(
        load_model(exported, dtype="float32").model, Tokenizer.from_file(str(exported / "tokenizer.json")), problems
    )
    for problem, made in zip(problems, ours, strict=True):
        chat = [{"role": "user", "content": problem.prompt}]
        inputs = tokenizer.apply_chat_template(chat, add_generation_prompt=True, return_tensors="pt", return_dict=True)
        prompt_length = inputs["input_ids"].shape[1]
        output = theirs.generate(**inputs, do_sample=False, max_length=256)[0, prompt_length:]
        assert made.text == tokenizer.decode(output, skip_special_tokens=True)
    assert [a.problem for a in ours] == problems


def test_the_weights_are_the_average_of_the_run_in_bf16(exported: Path) -> None:
    found = load_checkpoint(exported.parent)
    assert found is not None
    loaded = load_model(exported)
    assert loaded.config.dtype == "bfloat16"
    for name, parameter in loaded.model.named_parameters():
        assert torch.equal(parameter, found[1][f"average.{name}"].to(torch.bfloat16))


def test_the_directory_is_whole_and_its_card_true(exported: Path) -> None:
    names = {file.name for file in exported.iterdir()}
    assert names == {
        "README.md", "chat_template.jinja", "config.json", "generation_config.json", "model.safetensors",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    progress = load_checkpoint(exported.parent)[0]
    card = (exported / "README.md").read_text()
    assert f"{progress.problems:,} problems, {progress.tokens:,} tokens" in card
    assert "outthink train --size XS --suite arithmetic --steps 4 --seed 0" in card


def test_an_export_replaces_what_was_there(exported: Path, tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.mkdir()
    (target / "old.txt").write_text("old")
    export_run(exported.parent, target, figures="## Figures\n\n42%")
    assert not (target / "old.txt").exists()
    assert "42%" in (target / "README.md").read_text()
    assert load_model(target).config.num_layers == 2


def test_a_run_without_a_checkpoint_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no run\.json"):
        export_run(tmp_path, tmp_path / "model")
    Run(tiny(tmp_path / "run").resolve())
    with pytest.raises(CheckpointError, match="no checkpoint yet"):
        export_run(tmp_path / "run", tmp_path / "model")


@pytest.mark.parametrize(("size", "millions"), [("XS", 0.12), ("S", 1.0), ("M", 5.3), ("L", 26.0)])
def test_sizes_are_about_what_they_say(size: str, millions: float) -> None:
    with torch.device("meta"):
        model = Transformer(model_config(get_size(size), 512, 1024))
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(millions, rel=0.1)
    assert set(SIZES) == {"XS", "S", "M", "L"}
