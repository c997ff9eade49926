"""What a positive label means, in words: cancer where it rests on pathology, an opinion where it rests on BI-RADS.

``label_malignant`` holds both. VinDr-Mammo, INbreast and hospital data without pathology are graded by readers alone
(``label_source`` birads); to speak of cancer there would claim what nobody has looked at under the microscope.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:  # `headline` only reads JSON: it starts without pandas
    import pandas as pd

OPINION = "birads"


@dataclass(frozen=True)
class Truth:
    """Words for positive and negative units. ``note``: the sentence that has to stand beside them, None for none.

    ``pair``: one unit of each kind, with ``breast`` as the unit.  ``positive``: the first of the pair.  ``having``:
    head of a column of patients.  ``called``: adjective of a unit that is positive.
    """

    pair: str
    positive: str
    having: str
    called: str
    note: str | None = None


CANCER = Truth(
    pair="one breast with and one without cancer",
    positive="the one with cancer",
    having="with cancer",
    called="malignant",
)
SUSPICION = Truth(
    pair="one breast that was graded suspicious by a reader (BI-RADS) and one that was not",
    positive="the suspicious one",
    having="graded suspicious",
    called="suspicious",
    note="All labels are a reader's opinion (BI-RADS), none is pathology: agreement with readers is measured here, not "
    "how many cancers are found.",
)
MIXTURE = Truth(
    pair="one breast with cancer or graded suspicious by a reader (BI-RADS) and one with neither",
    positive="the former",
    having="with cancer or suspicion",
    called="positive",
)


def truth_of(sources: Mapping[str, int]) -> Truth:
    """Words for labels that rest on ``sources``: words of ``tables.LABEL_SOURCES`` -> labelled images.

    Everything but BI-RADS (pathology, follow-up, an archive's folder of normals) is spoken of as cancer or none.
    """
    opinions, every = sources.get(OPINION, 0), sum(sources.values())
    if not opinions:
        return CANCER
    if opinions == every:
        return SUSPICION
    share = 100 * opinions / every
    note = (
        f"Of {every} labelled images {share:.1f} % carry a reader's opinion (BI-RADS) as label, "
        f"{100 - share:.1f} % pathology or follow-up."
    )
    return Truth(MIXTURE.pair, MIXTURE.positive, MIXTURE.having, MIXTURE.called, note)


def label_sources(manifest: "pd.DataFrame") -> dict[str, int]:
    """Labelled images that take part by what their label rests on. ``manifest``: rows of a cohort's manifest."""
    labelled = manifest[manifest["exclude_reason"].isna() & manifest["label_malignant"].notna()]
    counts = labelled["label_source"].fillna("none").value_counts()
    return {str(source): int(count) for source, count in sorted(counts.items())}
