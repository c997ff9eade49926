"""Trainings in processes of their own: two by torchrun over gloo, signals from outside, failures."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from mammoflow import pack, tables
from training_cohort import packed_cohort

SOURCE = Path(__file__).resolve().parents[2] / "workflow" / "src"
SECTION = {
    "cohort": "synthetic",
    "encoder": "test_convnext",
    "image_size": [64, 32],
    "epochs": 2,
    "batch_size": 8,
    "learning_rate": 0.003,
    "workers": 0,
    "accelerator": "cpu",
}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """(cohort, pack) directories of 40 patients."""
    return packed_cohort(tmp_path_factory.mktemp("data"))


def start(data, out, processes, **changes):
    arguments = ["train", "demo", "--fold", "0", "--cohort", data[0], "--pack", data[1], "--seed", "1", "--out", out]
    arguments += ["--settings", json.dumps(SECTION | changes)]
    launcher = [sys.executable, "-m", "mammoflow.train.launch", "--processes", str(processes), "--"]
    environment = os.environ | {"PYTHONPATH": str(SOURCE), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [*launcher, *map(str, arguments)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )


def finish(process):
    """(exit status, what it said on stderr)."""
    _, said = process.communicate(timeout=300)
    return process.returncode, said


def test_two_processes_compute_what_one_does(data, tmp_path):
    changes = {"sampler": "natural", "augment": False}
    for processes in (1, 2):
        status, said = finish(start(data, tmp_path / str(processes), processes, **changes))
        assert status == 0, said
    records = [json.loads((tmp_path / str(n) / "train.json").read_text()) for n in (1, 2)]
    assert [record["world_size"] for record in records] == [1, 2]
    assert records[0]["samples"] == records[1]["samples"]
    frames = [pd.read_csv(tmp_path / str(n) / "metrics.csv") for n in (1, 2)]
    # The same batches, gradients and validation samples: only the order of additions differs.
    for figure in ("train_loss", "val_loss", "val_auc"):
        assert frames[0][figure].to_numpy() == pytest.approx(frames[1][figure].to_numpy(), abs=1e-3), figure
    one, two = (
        torch.load(tmp_path / str(n) / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for n in (1, 2)
    )
    difference = max(float((one[name] - two[name]).abs().max()) for name in one)
    assert difference < 1e-3


def test_a_signal_to_the_launcher_stops_all_and_the_retry_goes_on(data, tmp_path):
    process = start(data, tmp_path, 2, epochs=40)
    for line in process.stderr:
        if line.startswith("epoch 1/40"):
            process.send_signal(signal.SIGTERM)
            break
    status, said = finish(process)
    assert status != 0
    assert "stopped by a signal" in said
    assert not (tmp_path / "train.json").exists()
    seen = len(pd.read_csv(tmp_path / "metrics.csv"))
    assert 1 <= seen < 40
    process = start(data, tmp_path, 2, epochs=40)
    for line in process.stderr:
        if "goes on after" in line:
            process.send_signal(signal.SIGTERM)
            break
    else:
        pytest.fail("the retry began anew")
    process.communicate(timeout=300)


def test_a_failing_process_shows_its_own_error(data, tmp_path):
    broken = tmp_path / "pack"
    broken.mkdir()
    for path in data[1].iterdir():
        (broken / path.name).write_bytes(path.read_bytes())
    index = tables.read(broken / pack.INDEX, "pack_index")
    content = bytearray((broken / "0000.tar").read_bytes())
    for offset in index["offset"]:
        content[offset + 30] ^= 255
    (broken / "0000.tar").write_bytes(content)
    status, said = finish(start((data[0], broken), tmp_path / "out", 2))
    assert status != 0
    assert "0000.tar is damaged at synthetic/" in said
    assert not (tmp_path / "out" / "weights.safetensors").exists()


def test_no_progress_bar_and_no_advertisement_in_a_log(data, tmp_path):
    status, said = finish(start(data, tmp_path, 1, epochs=1))
    assert status == 0
    lines = said.splitlines()
    assert lines[0] == "training processes on this machine: 1"
    assert lines[1].startswith("demo fold 0: 24 breasts to train, 16 to validate")
    assert lines[2].startswith("epoch 1/1: train loss")
    assert len(lines) == 3
