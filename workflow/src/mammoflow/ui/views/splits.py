"""Page 4: sizes of the splits, the audit, how evenly attributes are shared."""

import streamlit as st

from mammoflow.ui.fields import plain
from mammoflow.ui.project import Project
from mammoflow.ui.splits import audit_table, cohorts, sizes, verdict, worst_balance
from mammoflow.ui.views.common import complaints


def show(project: Project) -> None:
    st.title("Split")
    with complaints():
        found = cohorts(project.results)
        if not found:
            st.info("No split yet. Start the workflow on page 3; a split is made before the first training.")
        for cohort in found:
            st.header(plain(cohort.name), anchor=False)
            with st.container(key=f"cohort-{cohort.name}"):
                (st.success if cohort.audit.get("ok") else st.error)(f"Audit: {verdict(cohort.audit)}.")
                st.table(sizes(cohort.manifest), hide_index=True)
            with st.expander("What the audit looked at"):
                st.table(audit_table(cohort.audit), hide_index=True)
                for line in cohort.audit.get("conflicts_resolved", []):
                    st.caption(plain(str(line)))
            if len(cohort.balance):
                st.subheader("Shared least evenly", anchor=False)
                st.caption("Points off the fair share, beside the best that whole patients allow.")
                st.table(worst_balance(cohort.balance), hide_index=True)
                st.caption(plain(f"All attributes: {project.results / 'cohorts' / cohort.name / 'balance.html'}"))
