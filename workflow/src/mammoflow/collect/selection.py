"""Which series to take. Whole exams stay together under every limit."""

import difflib
import hashlib
import re
from collections.abc import Collection, Iterable
from itertools import groupby
from pathlib import Path

from mammoflow.collect.model import Series
from mammoflow.errors import UserError

# CBIS-DDSM writes the folder's name where the patient belongs: Mass-Training_P_00001_LEFT_CC_1.
CBIS_PATIENT = re.compile(r"P_\d{5}")


def exam_of(dataset: str, patient: str, study: str) -> str:
    """The key of the exam: the study; for CBIS-DDSM, where every picture is a study of its own, the woman."""
    match = CBIS_PATIENT.search(patient) if dataset == "cbis_ddsm" else None
    return match[0] if match else study


def choose(
    series: Iterable[Series],
    modality: Collection[str] = (),
    patients: Collection[str] = (),
    max_series: int | None = None,
    max_gb: float | None = None,
) -> list[Series]:
    """The series within all limits, whole exams only (of the wanted modalities).

    Exams are taken in an order made by a hash of their key until the next one would break a limit. So a small selection
    is a fair sample of the archive and not its first pages (CMMD's first half differs from its second in nearly
    everything), and a larger limit gives a larger set that holds the smaller one.

    patients: PatientIDs, or in CBIS-DDSM the woman's ``P_00001``.  max_gb: 10**9 bytes each.
    Raises UserError for an unknown patient or modality, and where not even the first exam fits.
    """
    found = sorted(series, key=lambda one: (_order(one.exam), one.exam, one.uid))
    found = _of_modality(found, modality)
    found = _of_patients(found, patients)
    limit_series = max_series if max_series is not None else float("inf")
    limit_bytes = max_gb * 1e9 if max_gb is not None else float("inf")
    taken, size = [], 0
    for _, group in groupby(found, key=lambda one: one.exam):
        exam = list(group)
        exam_size = sum(one.bytes for one in exam)
        if len(taken) + len(exam) > limit_series or size + exam_size > limit_bytes:
            if not taken:
                raise UserError(
                    f"the limits leave nothing: the first exam has {len(exam)} series and {exam_size / 1e9:.3f} GB, "
                    "and exams are never cut; raise max_series or max_gb"
                )
            break
        taken += exam
        size += exam_size
    return taken


def read_patients(text: str) -> list[str]:
    """Patients of a command line: the lines of a file of that name, else a list separated by commas."""
    path = Path(text)
    words = path.read_text(encoding="utf-8").split() if path.is_file() else text.split(",")
    patients = [word.strip().strip(",") for word in words if word.strip().strip(",")]
    if not patients:
        raise UserError(f"--patients {text}: neither a file with one patient a line nor a list such as P_00001,P_00002")
    return patients


def _order(exam: str) -> bytes:
    return hashlib.blake2b(exam.encode(), digest_size=8).digest()


def _of_modality(found: list[Series], modality: Collection[str]) -> list[Series]:
    known = sorted({one.modality for one in found})
    for name in modality:
        if name not in known:
            raise UserError(f"modality: the archive has no {name!r}; it has {', '.join(known)}")
    return [one for one in found if not modality or one.modality in modality]


def _of_patients(found: list[Series], patients: Collection[str]) -> list[Series]:
    known = {one.patient for one in found} | {one.exam for one in found}
    for name in patients:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f" (did you mean {near[0]!r}?)" if near else ""
            raise UserError(f"patients: the archive has no {name!r}{hint}")
    wanted = set(patients)
    # A named folder of CBIS-DDSM brings the woman's other pictures along: her exam is never cut.
    exams = {one.exam for one in found if one.patient in wanted or one.exam in wanted}
    return [one for one in found if not wanted or one.exam in exams]
