"""Directories of models: what is there is replaced only where it was written here, and is never half of two."""

import os

import pytest
import torch
from safetensors.torch import load_file, save_file

from outthink.core.errors import UserError
from outthink.quant.model_directory import check_target, save_weights, writing_model


def write(target, number, source=None, *, fail=False):
    with writing_model(target, source) as directory:
        (directory / "config.json").write_text(str(number))
        save_weights(directory, {"w": torch.full((2,), float(number))})
        if fail:
            raise KeyboardInterrupt


def held(target):
    return int((target / "config.json").read_text()), load_file(target / "model.safetensors")["w"][0].item()


def test_new_empty_and_own_directories_are_written(tmp_path):
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "deep" / "new", tmp_path / "empty"):
        for number in (1, 2):
            write(target, number)
            assert held(target) == (number, number)
            assert sorted(os.listdir(target)) == ["config.json", "model.safetensors"]


def test_what_is_left_over_of_the_old_model_goes(tmp_path):
    write(tmp_path / "m", 1)
    (tmp_path / "m" / "chat_template.jinja").write_text("of the old one")
    write(tmp_path / "m", 2)
    assert not (tmp_path / "m" / "chat_template.jinja").exists()


FOREIGN = {
    "a text": lambda d: (d / "thesis.txt").write_text("years of work"),
    "a folder": lambda d: (d / "config").mkdir(),
    "a link": lambda d: (d / "tokenizer.json").symlink_to(d / "config.json"),
    "others' weights": lambda d: save_file({"w": torch.ones(1)}, d / "model.safetensors", {"format": "pt"}),
    "parts of others' weights": lambda d: save_file({"w": torch.ones(1)}, d / "model-00001-of-00002.safetensors"),
    "broken weights": lambda d: (d / "model.safetensors").write_bytes(b"x"),
    "a configuration alone": lambda d: (d / "model.safetensors").unlink(),
}


@pytest.mark.parametrize("kind", FOREIGN)
def test_everything_else_is_refused_and_stays(tmp_path, kind):
    write(tmp_path / "m", 1)
    FOREIGN[kind](tmp_path / "m")
    before = {path.name: path.is_file() and path.read_bytes() for path in (tmp_path / "m").iterdir()}
    with pytest.raises(UserError, match="was not written by this command"):
        write(tmp_path / "m", 2)
    assert {path.name: path.is_file() and path.read_bytes() for path in (tmp_path / "m").iterdir()} == before


def test_the_source_itself_and_files_are_refused(tmp_path):
    write(tmp_path / "m", 1)
    (tmp_path / "other").symlink_to(tmp_path / "m")
    with pytest.raises(UserError, match="is the model that is read"):
        check_target(tmp_path / "other" / ".." / "other", tmp_path / "m")
    for target in (tmp_path / "m" / "config.json", tmp_path / "m" / "config.json" / "x"):
        with pytest.raises(UserError, match=r"is a file|cannot be"):
            write(target, 2)


def test_what_came_along_from_the_source_may_be_replaced(tmp_path):
    (tmp_path / "source").mkdir()
    write(tmp_path / "m", 1)
    for directory in (tmp_path / "source", tmp_path / "m"):
        (directory / "LICENSE").write_text("MIT")
    write(tmp_path / "m", 2, tmp_path / "source")
    (tmp_path / "m" / "LICENSE").write_text("MIT, and a word of mine")
    with pytest.raises(UserError, match="'LICENSE'"):
        write(tmp_path / "m", 3, tmp_path / "source")


def test_a_filling_that_fails_changes_nothing(tmp_path):
    write(tmp_path / "m", 1)
    for target in (tmp_path / "m", tmp_path / "new"):
        with pytest.raises(KeyboardInterrupt):
            write(target, 2, fail=True)
    assert held(tmp_path / "m") == (1, 1) and not (tmp_path / "new").exists()


@pytest.mark.parametrize("moves", range(3))
def test_a_kill_at_any_time_leaves_no_mixture_and_can_be_repeated(tmp_path, monkeypatch, moves):
    """Whether nothing, the configuration or all has been moved when it comes; the room for the new files is left."""
    target, done = tmp_path / "m", []

    class Killed(BaseException):
        pass

    def rename(self, to):
        if len(done) == moves:
            raise Killed
        done.append(to)
        os.rename(self, to)

    write(target, 1)
    with monkeypatch.context() as patched:
        patched.setattr("pathlib.Path.rename", rename)
        patched.setattr("shutil.rmtree", lambda *_, **__: None)  # a kill cleans nothing up
        if moves < 2:
            with pytest.raises(Killed):
                write(target, 2)
            assert not (target / "model.safetensors").exists()
        else:
            write(target, 2)
            assert held(target) == (2, 2)
    write(target, 3)
    assert held(target) == (3, 3)
