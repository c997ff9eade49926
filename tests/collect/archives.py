"""Small phantom archives for the stub server, drawn once, and any number of copies of their series under other
names."""

import hashlib
from pathlib import Path

import pydicom

from mammoflow import phantom

TINY = (48, 40)


def draw(dataset: str, root: Path, patients: int) -> Path:
    """Write a phantom of the smallest pictures that its program can draw."""
    module = phantom.writer(dataset)
    shapes = dict(module.SHAPES)
    kinds = shapes["small"]  # one shape, or one for each kind of film
    module.SHAPES["tiny"] = dict.fromkeys(kinds, TINY) if isinstance(kinds, dict) else TINY
    try:
        module.write(root, patients, 1, "tiny")
    finally:
        module.SHAPES.clear()
        module.SHAPES.update(shapes)
    return root


def multiply_cmmd(source: Path, target: Path, series: int) -> Path:
    """``series`` exams with UIDs and patients of their own, the pictures of ``source`` again and again; with a
    table."""
    folders = sorted({path.parent for path in source.rglob("*.dcm")})
    rows = []
    for number in range(series):
        patient = f"D{1 + number % 2}-{3000 + number:04d}"
        for path in sorted(folders[number % len(folders)].glob("*.dcm")):
            header = pydicom.dcmread(path)
            header.PatientID = patient
            for name in ("StudyInstanceUID", "SeriesInstanceUID"):
                setattr(header, name, _uid(patient, name))
            header.SOPInstanceUID = header.file_meta.MediaStorageSOPInstanceUID = _uid(patient, path.name)
            out = target / patient / path.name
            out.parent.mkdir(parents=True, exist_ok=True)
            header.save_as(out)
        rows.append(f"{patient},{header.ImageLaterality},50,2,mass,{'Benign' if number % 3 else 'Malignant'},")
    table = "\r\n".join(["ID1,LeftRight,Age,number,abnormality,classification,subtype", *rows, ""])
    (target / "CMMD_clinicaldata_revision.csv").write_text(table)
    return target


def _uid(*words: str) -> str:
    return f"2.25.{int(hashlib.md5('/'.join(words).encode()).hexdigest(), 16)}"
