"""Page 5: the main numbers of each run, its learning curves, the report."""

from typing import Any

import pandas as pd
import streamlit as st

from mammoflow.headline import NAMES, in_words, select
from mammoflow.report.collect import Run, read_run
from mammoflow.truth import truth_of
from mammoflow.ui.fields import plain
from mammoflow.ui.project import Project
from mammoflow.ui.views.common import complaints, job_panel

REPORT_PX = 900


def show(project: Project) -> None:
    st.title("Results")
    job_panel(project)
    found = sorted({path.parent.parent for path in project.results.glob("runs/*/*/metrics.csv")})
    if not found:
        st.info("No training yet. Start one on page 3.")
        return
    for directory in found:
        with complaints():
            _run(read_run(directory))
    _report(project)


def _run(run: Run) -> None:
    st.header(plain(run.name), anchor=False)
    if run.metrics:
        with st.container(key=f"metrics-{run.name}"):
            st.table(numbers(run.metrics), hide_index=True)
            note = truth_of(run.metrics.get("label_sources", {})).note or ""
            st.caption(f"AUC on the test patients with its interval. A model must beat the metadata-only floor. {note}")
    else:
        st.info("Not evaluated yet.")
    curves = {fold: table.set_index("epoch")["val_auc"] for fold, (table, _) in run.folds.items()}
    if curves and max(map(len, curves.values())) > 1:
        with st.expander("Learning curves: validation AUC a fold"):
            st.line_chart(pd.DataFrame({f"fold {fold}": curve for fold, curve in curves.items()}))


def numbers(metrics: dict[str, Any]) -> pd.DataFrame:
    """Test AUC by level and model, as ``mammoflow headline`` prints it."""
    rows, called = [], truth_of(metrics.get("label_sources", {})).called
    for block in select(metrics["results"], split="test"):
        if block["model"] != "calibrated":
            auc = in_words(block["metrics"].get("auc", {"value": None, "reason": block["reason"]}))
            rows.append((block["level"], NAMES[block["model"]], auc, block["n_units"], block["n_positive"]))
    return pd.DataFrame(rows, columns=["level", "model", "test AUC", "units", called])


def _report(project: Project) -> None:
    page = project.results / "report" / "index.html"
    if not page.is_file():
        return
    st.header("Report", anchor=False)
    st.download_button("Save the report", page.read_bytes(), "mammoflow-report.html", "text/html", key="save-report")
    st.caption(plain(f"It is one file, {page}: open it in any browser, send it to anyone."))
    with st.container(key="report"):
        st.iframe(page, height=REPORT_PX)
