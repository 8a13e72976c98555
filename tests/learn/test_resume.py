"""A run that is stopped, killed or damaged loses nothing: it continues to the very same weights."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from learn_runs import tiny
from outthink.core.errors import CheckpointError, UserError
from outthink.learn.checkpoints import list_checkpoints, load_checkpoint
from outthink.learn.train import Run, train

KILLED = """
import sys
from pathlib import Path
import torch
sys.path.insert(0, {tests!r})
from outthink.learn.train import train
from learn_runs import tiny
if __name__ == "__main__":
    torch.set_num_threads(1)
    train(tiny(Path({out!r}), steps=100_000, checkpoint_seconds=0.2, processes={processes}))
"""


def final_state(run: Path) -> dict[str, torch.Tensor]:
    return load_file(list_checkpoints(run)[-1] / "state.safetensors")


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_three_steps_and_three_more_are_six_steps(tmp_path: Path, optimizer: str) -> None:
    train(tiny(tmp_path / "whole", optimizer=optimizer))
    # A run of 6 steps stopped after 3, not one of 3 steps: its learning rate must be that of the longer one.
    part = Run(tiny(tmp_path / "parts", optimizer=optimizer).resolve())
    with part.gradients:
        steps(part, 3)
    part.save()
    del part
    train(tiny(tmp_path / "parts", optimizer=optimizer))
    assert_same(final_state(tmp_path / "whole"), final_state(tmp_path / "parts"))
    curves = [load_checkpoint(tmp_path / name)[0] for name in ("whole", "parts")]
    assert [(p.step, p.tokens, p.problems) for p in curves] == [(6, curves[0].tokens, curves[0].problems)] * 2


def steps(run: Run, count: int) -> None:
    from outthink.learn.data import make_step

    for _ in range(count):
        run.step(make_step(run.data_config, run.tokenizer, run.progress.step))


@pytest.mark.parametrize("forgotten", ["optimizer.", "average.", "model.", "step"])
def test_a_resume_that_forgets_part_of_the_state_would_be_noticed(tmp_path: Path, forgotten: str) -> None:
    run = Run(tiny(tmp_path / "a").resolve())
    with run.gradients:
        steps(run, 3)
        run.save()
        other = Run(tiny(tmp_path / "a").resolve())
        fresh = Run(tiny(tmp_path / "b").resolve())
        if forgotten == "optimizer.":
            other.optimizers[1].state.clear()
        elif forgotten == "average.":
            other.average = fresh.average
        elif forgotten == "model.":
            other.model.load_state_dict(fresh.model.state_dict())
        else:
            other.progress.step = 0
        steps(run, 2)
        steps(other, 2)
    assert any(not torch.equal(run.average[name], other.average[name]) for name in run.average)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_run_continues_from_its_last_checkpoint(tmp_path: Path, processes: int) -> None:
    out = tmp_path / "run"
    script = tmp_path / "killed.py"
    script.write_text(KILLED.format(tests=str(Path(__file__).parent.parent), out=str(out), processes=processes))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, script], env=environment, start_new_session=True)
    try:
        wait_for(lambda: len(list_checkpoints(out)) == 2, process)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    # What it started ends by itself: nobody is left in its process group.
    wait_for(lambda: not group_exists(process.pid))
    done = load_checkpoint(out)[0].step
    assert done >= 2
    train(tiny(out, steps=done + 2))
    train(tiny(tmp_path / "whole", steps=done + 2))
    continued, whole = load_checkpoint(out)[0], load_checkpoint(tmp_path / "whole")[0]
    assert (continued.step, continued.tokens) == (whole.step, whole.tokens) == (done + 2, whole.tokens)


def group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def wait_for(condition, process: subprocess.Popen | None = None, seconds: float = 120.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert process is None or process.poll() is None, "the run ended by itself"
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)


def test_what_an_interrupted_write_left_behind_is_ignored(tmp_path: Path) -> None:
    train(tiny(tmp_path / "run", steps=2))
    partial = tmp_path / "run" / "checkpoints" / ".partial-00000003"
    partial.mkdir()
    (partial / "state.safetensors").write_bytes(b"half")
    train(tiny(tmp_path / "run", steps=3))
    assert load_checkpoint(tmp_path / "run")[0].step == 3
    assert not partial.exists()


@pytest.mark.parametrize("file", ["state.safetensors", "state.json"])
@pytest.mark.parametrize("damage", ["truncated", "flipped", "gone"])
def test_a_damaged_checkpoint_is_named_and_its_predecessor_continues(tmp_path: Path, file: str, damage: str) -> None:
    run = tmp_path / "run"
    for count in (2, 4):
        train(tiny(run, steps=count))
    before, last = list_checkpoints(run)
    content = (last / file).read_bytes()
    middle = len(content) // 2
    if damage == "gone":
        (last / file).unlink()
    elif damage == "truncated":
        (last / file).write_bytes(content[:middle])
    else:
        (last / file).write_bytes(content[:middle] + bytes([content[middle] ^ 0xFF]) + content[middle + 1 :])
    with pytest.raises(CheckpointError, match=r"step-00000004 is damaged.*continues from step-00000002"):
        train(tiny(run, steps=4))
    assert before.exists() and last.exists()
    for leftover in last.iterdir():
        leftover.unlink()
    last.rmdir()
    train(tiny(run, steps=4))
    assert load_checkpoint(run)[0].step == 4


def test_another_run_is_not_overwritten(tmp_path: Path) -> None:
    train(tiny(tmp_path / "run", steps=1))
    with pytest.raises(UserError, match=r"other settings: seed \(0, now 1\)"):
        train(tiny(tmp_path / "run", seed=1))
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "a.jpg").write_text("x")
    with pytest.raises(UserError, match="holds no training run"):
        train(tiny(tmp_path / "photos"))


def test_an_interrupt_saves_and_the_loss_curve_is_written(tmp_path: Path) -> None:
    out = tmp_path / "run"
    script = tmp_path / "interrupted.py"
    script.write_text(KILLED.format(tests=str(Path(__file__).parent.parent), out=str(out), processes=1))
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
    process = subprocess.Popen([sys.executable, script], env=environment, stderr=subprocess.PIPE)
    wait_for(lambda: (found := list_checkpoints(out)) and int(found[-1].name.split("-")[1]) >= 10, process)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=120)
    assert b"KeyboardInterrupt: saved at step" in errors
    progress = load_checkpoint(out)[0]
    curve = json.loads((out / "loss.json").read_text())
    assert curve["columns"][0] == "step" and curve["rows"] == progress.curve
    assert (out / "loss.png").stat().st_size > 1000
