"""Page 1: choose archives and limits, see size and time, then start, pause and resume."""

from pathlib import Path
from typing import Any

import streamlit as st

from mammoflow.collect import Estimate, Progress, estimate, pause, progress
from mammoflow.collect.command import duration, size
from mammoflow.collect.sources import ROUTES
from mammoflow.datasets import ARCHIVES
from mammoflow.datasets.detection import search
from mammoflow.errors import UserError
from mammoflow.ui import fields
from mammoflow.ui.fields import plain
from mammoflow.ui.plan import collect_section, with_archive
from mammoflow.ui.project import Project
from mammoflow.ui.steps import BUSY, begin
from mammoflow.ui.views.common import REFRESH_S, complaints

OPEN = ("cbis_ddsm", "cmmd", "tcga_brca")
MIXED = {"tcga_brca": ["MG", "MR"]}  # archives that hold much besides mammograms
ENDED = {
    "paused": "Paused. Resume goes on where it stopped.",
    "broken": "The collecting process was killed. Resume goes on where it stopped; nothing is lost.",
    "failed": "Some of it could not be had. Resume tries just that again.",
}


def show(project: Project) -> None:
    st.title("Collect the data")
    here = project.config()["datasets"]
    st.subheader("Open to everyone", anchor=False)
    for name in OPEN:
        if _offer(name, name in here):
            _card(project, name)
    with st.expander("With an account of yours (RSNA, VinDr-Mammo)"):
        st.caption("Kaggle: put your token where its client looks. PhysioNet: `~/.netrc`. See docs/collecting.md.")
        chosen = [name for name in ROUTES if name not in OPEN and _offer(name, name in here)]
    for name in chosen:
        _card(project, name)
    _on_disk(project)
    with st.expander("On request only: how to get the others"):
        for name, entry in ARCHIVES.items():
            if name not in ROUTES:
                st.markdown(f"**{plain(entry.title)}**  \n{plain(entry.access)}. {plain(entry.licence)}.")
                st.caption(plain(f"Put {entry.put_here} into {project.data / name}, then look for it above."))


def _offer(name: str, here: bool) -> bool:
    entry = ARCHIVES[name]
    images = entry.expected.get("images")
    facts = f"{f'{images:,} images, ' if images else ''}{entry.licence}"
    return st.checkbox(f"{plain(entry.title)} :gray[({plain(facts)})]", value=here, key=f"take-{name}")


def _card(project: Project, name: str) -> None:
    root = project.archive_root(name)
    now = progress(root)
    with st.container(border=True, key=f"card-{name}"):
        st.subheader(plain(name), anchor=False)
        if now.status in BUSY:
            st.fragment(_running, run_every=REFRESH_S)(name, root)
            if st.button("Pause", key=f"pause-{name}"):
                pause(root)
                st.toast("Pausing: what is under way is kept")
            return
        if now.status != "new":
            with complaints():
                _stopped(project, name, root, now)
        with st.expander("Other limits") if now.status != "new" else st.container(), complaints():
            _choose(project, name, root)


@complaints()
def _running(name: str, root: Path) -> None:
    now = progress(root)
    if now.status not in BUSY:
        st.rerun()
    with st.container(key=f"progress-{name}"):
        st.progress(_share(now), text=plain(_words(now)))


def _stopped(project: Project, name: str, root: Path, now: Progress) -> None:
    with st.container(key=f"state-{name}"):
        if now.status == "done":
            st.success(plain(f"Complete and verified: {now.series_done} series, {size(now.bytes_done)}, in {root}"))
            if now.message:
                st.warning(plain(now.message))
            return
        st.progress(_share(now), text=plain(_words(now)))
        st.warning(plain(f"{ENDED[now.status]} {now.message}".strip()))
    request = project.requests().get(name)
    if request is not None and st.button("Resume", type="primary", key=f"resume-{name}"):
        _begin(name, root, request)


def _choose(project: Project, name: str, root: Path) -> None:
    """The limits; the estimate of what was asked; the button that starts just that."""
    known = project.requests().get(name) or (project.written().get("datasets") or {}).get(name, {}).get("collect") or {}
    st.caption("Leave a limit empty to take everything. Whole exams are taken, in an order that makes a fair sample.")
    with st.form(f"limits-{name}", border=False):
        left, right = st.columns(2)
        max_gb = left.number_input(
            "At most GB", min_value=0.001, value=known.get("max_gb"), format="%.3f", placeholder="all", key=f"gb-{name}"
        )
        max_series = right.number_input(
            "At most series",
            min_value=1,
            step=1,
            value=known.get("max_series"),
            placeholder="all",
            key=f"series-{name}",
        )
        wanted = st.text_input(
            "Only these patients", ", ".join(known.get("patients", [])), placeholder="all", key=f"patients-{name}",
            help="PatientIDs, separated by commas",
        )  # fmt: skip
        modality = known.get("modality", [])
        if name in MIXED:
            modality = st.multiselect(
                "Modalities", MIXED[name], known.get("modality", ["MG"]), placeholder="all", key=f"modality-{name}",
                help="MG: mammography. MR is most of this archive.",
            )  # fmt: skip
        with st.expander("Another source or mirror"):
            routes = ["auto", *ROUTES[name]]
            source = st.selectbox("Source", routes, routes.index(known.get("source", "auto")), key=f"source-{name}")
            base_url = st.text_input("Its address", known.get("base_url") or "", key=f"base-{name}")
            tables_url = st.text_input("Address of the tables", known.get("tables_url") or "", key=f"tables-{name}")
            idc_index = st.text_input("Address of the IDC index", known.get("idc_index") or "", key=f"index-{name}")
        fresh = f"estimated-{name}" not in st.session_state
        kind = "primary" if fresh else "secondary"
        asked = st.form_submit_button("Show size and time", type=kind, key=f"estimate-{name}")
    if asked:
        st.session_state.pop(f"estimated-{name}", None)
        section = collect_section(
            max_gb=max_gb,
            max_series=max_series,
            modality=modality,
            patients=fields.patients(wanted),
            source=source,
            base_url=fields.address(base_url, "Its address"),
            tables_url=fields.address(tables_url, "Address of the tables"),
            idc_index=fields.address(idc_index, "Address of the IDC index"),
        )
        with st.spinner("Asking the source what it holds"):
            st.session_state[f"estimated-{name}"] = (section, estimate(name, root, section))
        st.rerun()
    if f"estimated-{name}" in st.session_state:
        section, found = st.session_state[f"estimated-{name}"]
        _estimated(project, name, root, section, found)


def _estimated(project: Project, name: str, root: Path, section: dict[str, Any], found: Estimate) -> None:
    with st.container(key=f"size-{name}"):
        about = "about " if found.estimated else ""
        with st.container(horizontal=True, gap="large"):
            st.metric("Patients", f"{found.patients:,}", width="content")
            st.metric("Images", f"{found.images:,}", width="content")
            st.metric("To fetch", about + size(found.bytes_left), width="content")
            st.metric("Time", f"about {duration(found.seconds)}", width="content")
        what = f"{len(found.chosen):,} series of {found.exams:,} exams from {found.source}"
        st.caption(plain(f"{what}, {about}{size(found.bytes)} in all; {size(found.free)} free on the disk of {root}"))
    if found.bytes_left > found.free:
        st.error("The disk has no room for this: lower the limit.")
    elif st.button("Start collecting", type="primary", key=f"start-{name}"):
        project.save(with_archive(project.written(), name, found.images))
        project.remember_request(name, section)
        _begin(name, root, section)


def _begin(name: str, root: Path, section: dict[str, Any]) -> None:
    st.session_state.pop(f"estimated-{name}", None)
    with st.spinner("Starting"):
        begin(name, root, section)
    st.rerun()


def _on_disk(project: Project) -> None:
    """Archives that lie below the data directory already."""
    with st.expander("Already on this machine"), complaints():
        st.caption(plain(f"Known archives below {project.data}, however they came there."))
        inside = st.text_input("Folder", "", placeholder="all of it", key="look-folder")
        if st.button("Look", key="look"):
            st.session_state.pop("found", None)
            folder = project.data / fields.folder(inside, project.data) if inside.strip() else project.data
            if not folder.is_dir():
                raise UserError(f"{folder} is not there: put the archives into it first")
            with st.spinner("Looking"):
                st.session_state["found"] = search(folder)
        for number, one in enumerate(st.session_state.get("found", [])):
            where = one.root.relative_to(project.data).as_posix()
            missing = f"missing: {'; '.join(one.missing)}" if one.missing else "complete"
            st.markdown(plain(f"{one.dataset} in {where}: {one.images_found:,} images, {missing}"))
            if st.button("Use it", key=f"use-{number}", disabled=bool(one.missing)):
                root = None if where == one.dataset else where
                project.save(with_archive(project.written(), one.dataset, one.images_found, root))
                st.rerun()
        if st.session_state.get("found") == []:
            st.info("No known archive there. `python -m mammoflow datasets` says what each one holds.")


def _share(now: Progress) -> float:
    return min(1.0, now.bytes_done / now.bytes) if now.bytes else 0.0


def _words(now: Progress) -> str:
    if now.status == "listing":
        return "Asking the source what it holds"
    words = f"{now.series_done} of {now.series} series, {size(now.bytes_done)} of {size(now.bytes)}"
    if now.bytes_per_second:
        words += f", {size(now.bytes_per_second)}/s"
    if now.seconds_left is not None:
        words += f", {duration(now.seconds_left)} left"
    return words + (f", {now.series_failed} failed" if now.series_failed else "")
