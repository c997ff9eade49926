"""Page 2: counts against expected, what was set aside and why, pictures with their boxes."""

import pandas as pd
import streamlit as st

from mammoflow.datasets import archive
from mammoflow.imaging.errors import meaning
from mammoflow.ui.fields import plain
from mammoflow.ui.plan import command, cores
from mammoflow.ui.project import Project
from mammoflow.ui.quality import Quality, pictures, quality, reason_in_words
from mammoflow.ui.steps import checked, job_of
from mammoflow.ui.views.common import complaints, job_panel, show_command, start_job

ROWS = 200


def show(project: Project) -> None:
    st.title("Check the data")
    datasets = list(project.config()["datasets"])
    if not datasets:
        st.info("There is nothing to check yet: collect an archive first.")
        return
    running = job_of(project).busy()
    missing = [name for name in datasets if name not in checked(project)]
    with complaints():
        words = command(project, "manifests", cores())
        label = "Check the data" if missing else "Check again"
        if st.button(label, type="primary" if missing else "secondary", key="check", disabled=running):
            start_job(project, words)
        with st.expander("What this runs"):
            st.caption("Lists every image, converts it, cuts the lesions and writes one manifest an archive.")
            show_command(words)
    job_panel(project)
    for name in datasets:
        with complaints():
            _dataset(project, name)


def _dataset(project: Project, name: str) -> None:
    shards = project.config()["datasets"][name]["shards"]
    found = quality(project.results, name, project.archive_root(name), shards)
    st.header(plain(archive(name).title), anchor=False)
    if not found.counts:
        st.caption("Not looked at yet.")
        return
    with st.container(key=f"quality-{name}"):
        _verdict(found)
        st.table(_counts(found), hide_index=True)
        if found.part:
            st.caption("You asked for a part of this archive, so its published counts are no measure.")
    if found.left_out:
        st.subheader("Left out of training", anchor=False)
        rows = [(reason_in_words(reason), number) for reason, number in found.left_out.items()]
        st.table(pd.DataFrame(rows, columns=["why", "images"]), hide_index=True)
    if found.errors:
        st.subheader("Quarantine: what could not be read", anchor=False)
        rows = [(reason, meaning(reason), number) for reason, number in found.errors.items()]
        st.table(pd.DataFrame(rows, columns=["reason", "what it means", "files"]), hide_index=True)
        st.dataframe(found.quarantine.head(ROWS), hide_index=True)
        st.caption(plain(f"All of them: {project.results / name / 'quarantine.csv'}"))
    shown = pictures(project.results, name, project.store)
    if shown:
        st.subheader("Pictures", anchor=False)
        boxes = " Do the boxes lie on what you would mark?" if archive(name).localised else ""
        st.caption(f"One image a patient, those with marked lesions first.{boxes}")
        with st.container(key=f"pictures-{name}", horizontal=True):
            for picture, caption in shown:
                st.image(picture, caption=plain(caption), width=160)


def _verdict(found: Quality) -> None:
    if not found.checked:
        st.info("Collected, not checked yet.")
    elif found.good:
        st.success("Every listed file is there and could be read.")
    else:
        failed, missing = sum(found.errors.values()), found.left_out.get("missing_file", 0)
        st.warning(f"{failed} could not be read, {missing} are listed but missing. Training goes on without them.")


def _counts(found: Quality) -> pd.DataFrame:
    rows = []
    for what, expected, number in found.counts:
        equal = "" if expected is None else "yes" if expected == number else f"{number - expected:+,}"
        rows.append((what, "" if expected is None else f"{expected:,}", f"{number:,}", equal))
    return pd.DataFrame(rows, columns=["", "expected", "found", "as expected"])
