"""The Streamlit script: who may enter, which pages there are. Started by ``python -m mammoflow ui``."""

import hmac
import os
from pathlib import Path

import streamlit as st

from mammoflow.errors import UserError
from mammoflow.ui.project import Project
from mammoflow.ui.views import check, collect, results, splits, train
from mammoflow.ui.views.common import banner, go, sentence

PAGES = {
    "collect": (collect, "1 Collect"),
    "check": (check, "2 Check"),
    "train": (train, "3 Train"),
    "splits": (splits, "4 Split"),
    "results": (results, "5 Results"),
}


def enter() -> None:
    """Stop here unless the address carries the key that the command printed: other people of this machine have none."""
    secret = os.environ["MAMMOFLOW_PAGE_KEY"]
    if not st.session_state.get("entered"):
        if not hmac.compare_digest(st.query_params.get("key", "").encode(), secret.encode()):
            st.title("mammoflow")
            st.error("Open the whole address that `python -m mammoflow ui` printed: it ends in `?key=...`.")
            st.stop()
        st.session_state["entered"] = True


def main() -> None:
    st.set_page_config(page_title="mammoflow", layout="wide", initial_sidebar_state="collapsed")
    enter()
    project = Project(Path(os.environ["MAMMOFLOW_PAGE_PROJECT"]), Path(os.environ["MAMMOFLOW_PAGE_CONFIG"]))
    # One address with the page in its query, so that a reload stays where it was.
    chosen = st.query_params.get("page", "")
    chosen = chosen if chosen in PAGES else "collect"
    with st.container(horizontal=True, key="pages"):
        for key, (_, title) in PAGES.items():
            if st.button(title, key=f"page-{key}", type="secondary" if key == chosen else "tertiary"):
                go(key)
    try:
        banner(project, {key: title for key, (_, title) in PAGES.items()}, chosen)
        PAGES[chosen][0].show(project)
    except UserError as error:
        sentence(error)


main()
