"""Page 3: one split and one model, the exact command, and the run itself."""

from typing import Any

import streamlit as st

from mammoflow.ui import fields
from mammoflow.ui.fields import plain
from mammoflow.ui.plan import (
    PRESETS,
    TARGETS,
    Preset,
    command,
    cores,
    dry_run,
    profiles,
    supervised,
    with_run,
)
from mammoflow.ui.project import Project, check
from mammoflow.ui.steps import job_of
from mammoflow.ui.views.common import complaints, job_panel, show_command, start_job

ENCODERS = ("test_efficientnet", "convnext_nano", "resnet18", "resnet50", "efficientnet_b0", "convnext_tiny")


def show(project: Project) -> None:
    st.title("Train and evaluate")
    datasets = supervised(project.config()["datasets"])
    if not datasets:
        st.info("There is nothing to learn from yet: collect an archive with labels first.")
        return
    job_panel(project)
    with complaints():
        _choose(project, datasets)


def _choose(project: Project, datasets: list[str]) -> None:
    preset = PRESETS[
        st.radio("Model", list(PRESETS), format_func=lambda key: PRESETS[key].title, horizontal=True, key="preset")
    ]
    st.caption(preset.note)
    left, right = st.columns(2)
    name = left.text_input("Name of the run", "first", key="run-name", help="Small letters, digits and _")
    chosen = right.multiselect("Learn from", datasets, default=datasets, key="learn-from")
    with st.expander("Details", key="details"):
        long_side, folds, splits, run = _details(preset, project.config()["convert"]["long_side"])
    where, target = _where()
    config = with_run(project.written(), fields.name(name, "Name of the run"), chosen, folds, splits, long_side, run)
    check(config, project.config_path.name)
    words = command(project, target, where[0], where[1])
    st.markdown("This writes the configuration and runs:")
    show_command(words)
    with st.expander(f"The configuration ({plain(project.config_path.name)})", key="configuration"):
        st.json(config)
    running = job_of(project).busy()
    start, plan = st.columns([1, 3])
    if start.button("Start", type="primary", key="start-run", disabled=running):
        project.save(config)
        start_job(project, words)
    if plan.button("Show the plan first", key="plan", disabled=running):
        project.save(config)
        with st.spinner("Asking Snakemake what it would do"), st.container(key="planned"):
            st.code(dry_run(words, project), language=None)


def _details(preset: Preset, converted: int | None) -> tuple[int | None, int, dict[str, float], dict[str, Any]]:
    """(long_side, folds, splits, the run's section) of the numbers on the page, which begin at the preset's.

    converted: longer side of the working images as configured so far.
    """
    base, key = preset.run, preset.title.split()[0].lower()
    st.caption("Every other key can be set in the configuration file; the page keeps what it does not know.")
    one, two, three, four = st.columns(4)
    height = one.number_input("Input height", 32, 4096, base["image_size"][0], 32, key=f"height-{key}")
    width = two.number_input("Input width", 32, 4096, base["image_size"][1], 32, key=f"width-{key}")
    epochs = three.number_input("Epochs", 1, 1000, base["epochs"], 1, key=f"epochs-{key}")
    batch = four.number_input("Batch size", 1, 1024, base["batch_size"], 1, key=f"batch-{key}")
    one, two, three, four = st.columns(4)
    folds = one.number_input("Folds", 2, 20, 2 if preset is PRESETS["quick"] else 5, 1, key=f"folds-{key}")
    test = two.number_input("Test share", 0.05, 0.5, 0.2, 0.05, key=f"test-{key}")
    val = three.number_input("Validation share", 0.05, 0.5, 0.2, 0.05, key=f"val-{key}")
    long_side = four.number_input(
        "Working images, longer side", 32, None, converted, 32, placeholder="native",
        help="In pixels. A change converts every image anew.", key=f"side-{key}",
    )  # fmt: skip
    encoder = st.selectbox("Encoder", ENCODERS, ENCODERS.index(base["encoder"]), key=f"encoder-{key}")
    run = {**base, "encoder": encoder, "image_size": [height, width], "epochs": epochs, "batch_size": batch}
    splits = {"train": round(1 - test - val, 4), "val": round(val, 4), "test": round(test, 4)}
    return long_side, folds, splits, run


def _where() -> tuple[tuple[int, str | None], str]:
    left, right = st.columns(2)
    place = left.selectbox("Run on", ["this machine", *profiles()], key="place")
    target = right.selectbox("Up to", list(TARGETS)[::-1], format_func=TARGETS.get, key="target")
    count = 1
    if place == "this machine":
        count = left.number_input("Cores", 1, cores(), cores(), 1, key="cores")
    return (count, None if place == "this machine" else place), target
