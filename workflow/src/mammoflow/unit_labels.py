"""What is known of a breast and of a patient, beyond those of their images that take part.

A cancer seen only on a film that is left out (it could not be read, or stands in the other published split) is there
all the same: 4 of the 349 patients of CBIS-DDSM's test set have no other sign of it. And a patient is free of cancer
only if both her breasts are known to be: a breast without a label (BI-RADS 3, a side that CMMD says nothing of) makes
her unknown, which is neither 0 nor benign.
"""

import pandas as pd

from mammoflow.features import unit_key

# Column of the label of each level's unit, on image rows.
LABELS = {"image": "label_malignant", "breast": "label_breast", "patient": "label_patient"}


def with_unit_labels(manifest: pd.DataFrame) -> pd.DataFrame:
    """Add ``label_breast`` and ``label_patient`` (Int64: 0, 1, NA) to the rows of a whole ``manifest``.

    A breast (at one exam) has the highest known label of all its images; a patient that of all her breasts, and NA
    instead of 0 where an image was left out for want of a label and nothing else tells of its breast.
    """
    breasts, patients = unit_key(manifest, "breast"), unit_key(manifest, "patient")
    label = manifest["label_malignant"]
    of_breast = label.groupby(breasts).transform("max")
    reason = manifest["exclude_reason"]
    wanted = reason.isna() | reason.str.startswith(("no_label", "convert_failed")).fillna(False)
    unknown = (of_breast.isna() & wanted).groupby(patients).transform("any")
    of_patient = label.groupby(patients).transform("max")
    of_patient = of_patient.mask((of_patient == 0).fillna(False) & unknown.astype(bool))
    return manifest.assign(**{LABELS["breast"]: of_breast, LABELS["patient"]: of_patient})
