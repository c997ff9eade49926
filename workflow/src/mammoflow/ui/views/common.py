"""What the pages share: the line on top, errors in one sentence, the workflow's job with its log."""

import shlex
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from mammoflow.errors import UserError
from mammoflow.ui.fields import plain
from mammoflow.ui.job import State
from mammoflow.ui.plan import TARGETS, unlock_command
from mammoflow.ui.project import Project
from mammoflow.ui.steps import job_of, next_step

REFRESH_S = 1.0


def sentence(error: UserError) -> None:
    """Show an error of the user's as the sentence it is."""
    st.error(plain(str(error)))


@contextmanager
def complaints() -> Iterator[None]:
    """An error of the user's inside shows as a sentence in its place; the rest of the page goes on."""
    try:
        yield
    except UserError as error:
        sentence(error)


def go(page: str) -> None:
    """Turn to another page."""
    st.query_params["page"] = page
    st.rerun()


def banner(project: Project, titles: dict[str, str], chosen: str) -> None:
    """What to do next, with the way there."""
    key, words = next_step(project)
    with st.container(border=True, key="next", horizontal=True, vertical_alignment="center"):
        st.markdown(f"**Next:** {plain(words)}", width="stretch")
        if key != chosen and st.button(f"Go to {titles[key]}", type="primary", key="go-next"):
            go(key)


def job_panel(project: Project) -> None:
    """The workflow's job: progress, log, stop; how it ended. Redrawn while it runs."""
    job = job_of(project)
    state = job.state()
    if state.status == "new":
        return
    if state.status == "running":
        st.fragment(_running, run_every=REFRESH_S)(project)
        if st.button("Stop", key="stop-job", help="As Ctrl-C does. The next run goes on from the finished steps."):
            job.stop()
            st.toast("Stopping")
        return
    _ended(project, state)


@complaints()
def _running(project: Project) -> None:
    job = job_of(project)
    state = job.state()
    if state.status != "running":
        st.rerun()
    share = state.steps_done / state.steps if state.steps else 0.0
    plan = f"{state.steps_done} of {state.steps} steps done" if state.steps else "Snakemake is planning"
    now = f". Now: {state.now}" if state.now else ""
    with st.container(key="job-progress"):
        st.progress(min(1.0, share), text=plain(f"{plan}{now}"))
    with st.expander("Log", expanded=False, key="job-log"):
        st.code(job.last_lines(), language=None, wrap_lines=True)


def _ended(project: Project, state: State) -> None:
    job = job_of(project)
    what = TARGETS.get(state.command[-1], "the last run")
    with st.container(key="job-ended"):
        if state.status == "done":
            st.success(f"Ended well: {what}.")
        elif state.status == "stopped":
            st.info(f"Stopped: {what}. Starting it again goes on where it was.")
        elif state.status == "broken":
            st.error(f"Killed: {what}. Starting it again goes on where it was.")
        elif job.locked_directory():
            st.error("An earlier run was killed and left its lock. Free it, then start again.")
            if st.button("Free the directory", key="unlock"):
                job.start(unlock_command(project), project.root)
                st.rerun()
        else:
            st.error(f"Failed: {what} (exit status {state.exit_status}). The reason stands in the last lines:")
    with st.expander("Log of the last run", expanded=state.status == "failed", key="job-log"):
        st.code(job.last_lines(), language=None, wrap_lines=True)
        st.caption(plain(f"{shlex.join(state.command)}"))
        st.caption(plain(f"whole log: {job.log}"))


def start_job(project: Project, command: list[str]) -> None:
    """Start the workflow and look at it."""
    job_of(project).start(command, project.root)
    st.rerun()


def show_command(command: list[str]) -> None:
    """The exact command, to copy."""
    with st.container(key="command"):
        st.code(shlex.join(command), language="bash", wrap_lines=True)
