"""Pseudonymisation: nothing that identifies gets through, what is needed does, and the audit is no formality."""

import os
import stat

import cv2
import numpy as np
import pandas as pd
import pydicom
import pytest
from hypothesis import given
from hypothesis import settings as tries
from hypothesis import strategies as st
from pydicom import uid
from pydicom.dataset import Dataset
from pydicom.uid import UID

from made_images import breast_picture, dicom
from mammoflow import cli, convert, settings, tables
from mammoflow.datasets import dicom_folder
from mammoflow.errors import UserError
from mammoflow.imaging.decode import Source, StoredImage, read_image
from mammoflow.imaging.header import Header
from mammoflow.phantom import mg_dicom
from mammoflow.pseudonymise import audit, command, pixels, whitelist
from mammoflow.pseudonymise.identities import carried, identities
from mammoflow.pseudonymise.keys import Key, read_key
from mammoflow.pseudonymise.pixels import Blanking
from mammoflow.pseudonymise.transform import read_source
from mammoflow.rows import from_frame

KEY, OTHER = Key(b"0123456789abcdef" * 4), Key(b"fedcba9876543210" * 4)
SECRETS = [
    "Lindqvist", "Margareta", "HOSP-4711", "19340512", "1934-05-12", "20240229", "ACC998877", "Doctor", "Sankta",
    "1.2.752.24.7", "55443322", "SCREEN-ROOM-3",
]  # fmt: skip


def item(**values):
    ds = Dataset()
    for name, value in values.items():
        setattr(ds, name, value)
    return ds


def identified(number=1, side="L", view="CC", pixels=None, syntax=uid.ExplicitVRLittleEndian, **tags):
    """An image with everything in its header that a hospital writes, and more than it should."""
    pixels = breast_picture(640, 512, side, seed=number) if pixels is None else pixels
    ds = dicom(pixels, syntax, **{
        "BitsStored": 12, "WindowCenter": 2000, "WindowWidth": 3000, "ImageLaterality": side,
        "SOPInstanceUID": f"1.2.752.24.7.1.{number}", "StudyInstanceUID": "1.2.752.24.7.2",
        "SeriesInstanceUID": f"1.2.752.24.7.3.{number}", "FrameOfReferenceUID": "1.2.752.24.7.9",
        "PatientID": "HOSP-4711", "PatientName": "Lindqvist^Margareta", "PatientBirthDate": "19340512",
        "PatientAge": "", "StudyDate": "20240229", "StudyTime": "101010", "AcquisitionDate": "20240229",
        "AccessionNumber": "ACC998877", "ReferringPhysicianName": "Doctor^Anna", "OtherPatientIDs": "55443322",
        "InstitutionName": "Sankta Anna", "StationName": "SCREEN-ROOM-3", "StudyDescription": "Lindqvist recall",
        "PatientComments": "Margareta is deaf", "Manufacturer": "SIEMENS", "BodyPartExamined": "BREAST",
        "ManufacturerModelName": "Mammomat of Sankta Anna", "PaddleDescription": "24x30 LINDQVIST",
        "ImagerPixelSpacing": [0.085, 0.085], "ViewCodeSequence": mg_dicom.view_code(view),
        "RequestAttributesSequence": [item(RequestedProcedureID="ACC998877", PatientName="Lindqvist")],
        "SourceImageSequence": [item(ReferencedSOPInstanceUID="1.2.752.24.7.8")],
        **tags,
    })  # fmt: skip
    ds.file_meta.MediaStorageSOPInstanceUID = ds.SOPInstanceUID
    ds.file_meta.SourceApplicationEntityTitle = "SCREEN-ROOM-3"
    ds.ViewCodeSequence[0].CodeMeaning = "as for Margareta"
    ds.ViewCodeSequence[0].ViewModifierCodeSequence = [
        item(CodeValue="399055006", CodingSchemeDesignator="SCT", CodeMeaning="Lindqvist"),
        item(CodeValue="LINDQVIST", CodingSchemeDesignator="99X", CodeMeaning="private"),
    ]
    block = ds.private_block(0x0019, "SANKTA ANNA", create=True)
    block.add_new(0x01, "LO", "Lindqvist Margareta")
    block.add_new(0x02, "SQ", [item(PatientName="Lindqvist^Margareta")])
    ds.add_new(0x60003000, "OW", b"\1\0" * 40)
    ds.add_new(0x60000040, "CS", "G")
    ds.preamble = b"Lindqvist Margareta".ljust(128, b" ")
    return ds


def put(ds, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    ds.save_as(path, enforce_file_format=True)
    return path


@pytest.fixture
def tree(tmp_path):
    """Four views of one woman in three syntaxes, a report and a text, with labels.csv and findings.csv."""
    root = tmp_path / "2024-02-29-export"
    syntaxes = [uid.ExplicitVRLittleEndian, uid.JPEGLosslessSV1, uid.JPEG2000Lossless, uid.ImplicitVRLittleEndian]
    for number, (side, view) in enumerate([("L", "CC"), ("L", "MLO"), ("R", "CC"), ("R", "MLO")], 1):
        put(identified(number, side, view, syntax=syntaxes[number - 1]), root / "HOSP-4711" / f"IM{number:06d}")
    put(identified(9, Modality="SR"), root / "HOSP-4711" / "REPORT.dcm")
    (root / "notes.txt").write_text("Lindqvist")
    (root / "labels.csv").write_text(
        "patient_id,laterality,pathology,birads,age,site,comment\n"
        "HOSP-4711,L,malignant,5,93,Sankta Anna,call her\nHOSP-4711,R,normal,1,93,Sankta Anna,\n"
        "HOSP-9999,L,benign,2,50,x,\n"
    )
    (root / "findings.csv").write_text(
        "image_id,finding_categories,xmin,ymin,xmax,ymax,pathology,reader\n"
        "1.2.752.24.7.1.1,['Mass'],60,250,100,300,malignant,Doctor Anna\n"
        "1.2.752.24.7.1.2,Mass,60,250,100,300,malignant,x\n"
    )
    return root


def run(root, out, key=KEY, **options):
    side = {name: root / f"{name}.csv" for name in ("labels", "findings") if (root / f"{name}.csv").is_file()}
    return command.pseudonymise(root, out, key, **side, **options)


def written(out):
    return [pydicom.dcmread(path) for path in sorted(out.rglob("*.dcm"))]


# --- the whole way


@pytest.mark.parametrize("compress", [False, True])
def test_nothing_of_the_woman_is_left(tree, tmp_path, compress):
    result = run(tree, tmp_path / "out", compress=compress)
    assert (result["written"], result["problems"], dict(result["reasons"])) == (4, [], {"modality_SR": 1})
    for path in (tmp_path / "out").rglob("*"):
        assert not any(secret.lower() in path.name.lower() for secret in SECRETS)
        if path.is_file():
            data = path.read_bytes().lower()
            # Compressed or noisy pixels may hold any eight digits by chance; the header and the tables may not.
            data = data[: data.find(b"\xe0\x7f\x10\x00")] if path.suffix == ".dcm" else data
            for secret in SECRETS:
                assert secret.lower().encode() not in data, (path.name, secret)


def test_what_is_needed_is_kept(tree, tmp_path):
    run(tree, tmp_path / "out")
    images = written(tmp_path / "out")
    assert len({ds.SOPInstanceUID for ds in images}) == len({ds.SeriesInstanceUID for ds in images}) == 4
    assert len({ds.StudyInstanceUID for ds in images}) == len({ds.PatientID for ds in images}) == 1
    for ds in images:
        for name in ("SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"):
            assert ds[name].value.startswith("2.25.")
            assert UID(ds[name].value).is_valid
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert (ds.PatientAge, ds.PatientName, ds.StudyDate, ds.AccessionNumber) == ("089Y", "", "", "")
        assert (ds.PatientIdentityRemoved, ds.Manufacturer, ds.BodyPartExamined) == ("YES", "SIEMENS", "BREAST")
        assert "ManufacturerModelName" not in ds  # it named the hospital
        assert "PaddleDescription" not in ds
        assert list(ds.ImagerPixelSpacing) == [0.085, 0.085]
        view = ds.ViewCodeSequence[0]
        assert view.CodeMeaning in ("CC", "MLO")
        assert [one.CodeMeaning for one in view.ViewModifierCodeSequence] == ["spot compression"]
        assert not [element for element in ds if element.tag.is_private or element.tag.group == 0x6000]


def test_the_new_tree_is_an_archive_and_converts(tree, tmp_path):
    out = tmp_path / "out"
    run(tree, out)
    images, findings, _ = dicom_folder.inventory(out)
    assert sorted(images["label_malignant"]) == [0, 0, 1, 1]
    assert set(images["age"]) == {90}  # labels.csv said 93
    assert images["site"].str.fullmatch(r"S[A-Z2-7]{8}").all()
    assert sorted(images["laterality"] + images["view_position"]) == ["LCC", "LMLO", "RCC", "RMLO"]
    assert set(findings["image_id"]) <= set(images["image_id"])
    assert len(findings) == 2
    section = settings.resolve_section("convert", {"long_side": 200})
    rows = convert.convert_images("dicom_folder", from_frame(images), out, tmp_path / "store", section, threads=2)
    ledger = tables.finish("convert_ledger", pd.DataFrame(rows))
    assert list(ledger["status"]) == ["ok"] * 4
    original = convert.convert_images(
        "dicom_folder",
        from_frame(dicom_folder.inventory(tree).images.query("use == 'labelled'")),
        tree,
        tmp_path / "old",
        section,
    )
    geometry = list(tables.GEOMETRY)
    assert sorted(map(tuple, ledger[geometry].astype(str).to_numpy())) == sorted(
        map(tuple, tables.finish("convert_ledger", pd.DataFrame(original))[geometry].astype(str).to_numpy())
    )


def test_pixels_stay_as_they_are_beside_the_corners(tree, tmp_path):
    result = run(tree, tmp_path / "out", compress=True, blanking=Blanking("corners", 0.3, 0.15))
    for row in result["mapping"].dropna(subset=["new_image_id"]).query("reason.isna()").to_dict("records"):
        old = read_image(tree / row["path"]).pixels
        new = read_image(tmp_path / "out" / row["new_path"]).pixels
        changed = old != new
        assert not changed[96:-96].any()
        assert not changed[:, 154:-154].any()
        inside = (breast_picture(640, 512, "L", top=1) > 0) | (breast_picture(640, 512, "R", top=1) > 0)
        assert not changed[inside & (old > 0)].any()


# --- keys


def test_same_key_same_names_other_key_other_names(tree, tmp_path):
    names = {}
    for place, key in (("a", KEY), ("b", KEY), ("c", OTHER)):
        run(tree, tmp_path / place, key)
        names[place] = {path.relative_to(tmp_path / place).as_posix() for path in (tmp_path / place).rglob("*.dcm")}
        names[place] |= {ds.SOPInstanceUID for ds in written(tmp_path / place)}
    assert names["a"] == names["b"]
    assert not names["a"] & names["c"]
    first, second = (sorted((tmp_path / place).rglob("*.dcm")) for place in "ab")
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


@tries(max_examples=40)
@given(st.text(min_size=1, max_size=64))
def test_uids_are_valid_whatever_the_original(original):
    made = KEY.uid(original)
    assert UID(made).is_valid
    assert made.startswith("2.25.")
    assert len(made) <= 44
    assert made == KEY.uid(original) != OTHER.uid(original)
    number = int(made.removeprefix("2.25."))
    assert (number >> 76 & 0xF, number >> 62 & 0b11) == (8, 0b10)
    assert KEY.patient(original) != KEY.name("P", "site", original)


@pytest.mark.parametrize(
    ("content", "mode", "message"),
    [
        ("0123456789abcdef" * 4, 0o644, "can be read by others"),
        ("0123456789abcdef" * 4, 0o640, "can be read by others"),
        ("short", 0o600, "too few to keep a secret"),
        (None, None, "does not exist"),
    ],
)
def test_bad_keys_are_refused(tmp_path, content, mode, message):
    path = tmp_path / "key"
    if content is not None:
        path.write_text(content)
        path.chmod(mode)
    with pytest.raises(UserError, match=message):
        read_key(path)


# --- headers


def random_sequences():
    """Datasets with secrets at any depth: in kept and unknown sequences, private ones, wrong value representations."""
    leaf = st.sampled_from(["Lindqvist", "HOSP-4711", "SIEMENS", "20240229", "MLO", "12"])
    names = ["Manufacturer", "BodyPartExamined", "PatientComments", "WindowCenterWidthExplanation", "CodeMeaning"]

    @st.composite
    def dataset(draw, depth=3):
        ds = Dataset()
        for name in draw(st.lists(st.sampled_from(names), unique=True)):
            setattr(ds, name, draw(leaf))
        if draw(st.booleans()):
            ds.PatientName = "Lindqvist^Margareta"
        if draw(st.booleans()):
            ds.add_new(0x00280010, "LO", draw(leaf))  # Rows that are no number
        if draw(st.booleans()):
            ds.private_block(0x0011, "X", create=True).add_new(1, "LO", draw(leaf))
        if depth:
            for name in draw(
                st.lists(
                    st.sampled_from(["VOILUTSequence", "ViewCodeSequence", "RequestAttributesSequence"]), unique=True
                )
            ):
                setattr(ds, name, draw(st.lists(dataset(depth=depth - 1), max_size=2)))  # fmt: skip
        return ds

    return dataset()


@tries(max_examples=40)
@given(random_sequences())
def test_no_secret_survives_at_any_depth(ds):
    own = identities(identified())
    cleaned = whitelist.clean_top(ds, KEY, own)
    text = cleaned.to_json().lower()
    for secret in ("lindqvist", "hosp-4711", "20240229"):
        assert secret not in text
    assert list(audit._dataset_problems(cleaned, own, set())) == []


@pytest.mark.parametrize(
    ("tags", "age"),
    [
        ({"PatientAge": "093Y"}, "090Y"),
        ({"PatientAge": "090Y"}, "090Y"),
        ({"PatientAge": "061Y"}, "061Y"),
        ({"PatientAge": "", "PatientBirthDate": "19630301", "StudyDate": "20240229"}, "060Y"),
        ({"PatientAge": "", "PatientBirthDate": "1963.02.29", "StudyDate": "20240229"}, None),  # no such day
        ({"PatientAge": "", "PatientBirthDate": "19120301", "StudyDate": "20240229"}, "090Y"),
        ({"PatientAge": "", "PatientBirthDate": ""}, None),
    ],
)
def test_ages(tags, age):
    assert whitelist.clean_top(identified(**tags), KEY, set()).get("PatientAge") == age


def test_the_whitelist_is_sound_and_explains_itself():
    assert whitelist.actions()
    rows = pd.read_csv(whitelist.TAGS_FILE)
    assert rows["reason"].str.len().min() > 5
    # PS3.15 lets none of these stay as it is; the few that do are of an option that is named.
    kept = rows[rows["action"].isin(["keep", "text"]) & (rows["ps3_15_e1"] != "not listed")]
    assert kept["keyword"].tolist() == ["PatientSex"]


def test_identities_are_found_and_recognised():
    own = identities(identified())
    assert {"lindqvist", "margareta", "hosp-4711", "19340512", "1934-05-12", "acc998877", "sankta anna"} <= own
    assert "1.2.752.24.7.8" in own
    assert not any(text.startswith("1.2.840.10008") for text in own)
    assert carried("Screening of LINDQVIST, M.", own) == "lindqvist"
    assert carried("MAMMOMAT Inspiration", own) is None
    assert carried("planned", {"ann"}) is None
    assert carried("for ann, 61", {"ann"}) == "ann"


# --- pixels


def corner_text(picture):
    ink = np.zeros(picture.shape, np.uint8)
    for line, text in enumerate(["LINDQVIST", "19340512"]):
        cv2.putText(ink, text, (picture.shape[1] - 165, 24 + 28 * line), cv2.FONT_HERSHEY_SIMPLEX, 0.8, 1, 2)
    return np.where(ink, 3500, picture).astype(np.uint16)


@pytest.mark.parametrize("photometric", ["MONOCHROME2", "MONOCHROME1"])
@pytest.mark.parametrize("mode", ["corners", "outside", "none"])
def test_writing_in_a_corner_is_blanked_and_the_breast_is_not(tmp_path, mode, photometric):
    plain = breast_picture(640, 512, seed=3)
    picture = corner_text(plain)
    stored = 4095 - picture if photometric == "MONOCHROME1" else picture
    put(identified(pixels=stored, PhotometricInterpretation=photometric), tmp_path / "raw" / "a.dcm")
    result = run(tmp_path / "raw", tmp_path / "out", blanking=Blanking(mode, 0.35, 0.1))
    (new,) = (read_image(path).pixels for path in (tmp_path / "out").rglob("*.dcm"))
    new = 4095 - new if photometric == "MONOCHROME1" else new
    assert np.array_equal(new, plain if mode != "none" else picture)
    assert len(result["writing"]) == (mode == "none")
    assert result["problems"] == []


def test_the_breast_in_a_corner_stays():
    picture = np.zeros((640, 512), np.uint16)
    picture[:, :200] = 1500  # a muscle that fills two corners
    picture[:, :200] += np.random.default_rng(1).integers(0, 200, (640, 200), dtype=np.uint16)
    found = pixels.find_breast(stored_image(picture))
    area = pixels.blank_area(found, picture.shape, Blanking("corners", 0.5, 0.5))
    assert not area[:, :200].any()
    assert area[:, 230:].all()


def stored_image(picture, **tags):
    return StoredImage(picture, Header(*picture.shape, bits_stored=12, **tags), "none", None, Source(0, 0, ""))


def test_a_lesion_under_a_blanked_corner_stops_that_image(tree, tmp_path):
    table = tree / "findings.csv"
    table.write_text("image_id,finding_categories,xmin,ymin,xmax,ymax\n1.2.752.24.7.1.1,Mass,470,10,500,40\n")
    out = tmp_path / "out"
    result = run(tree, out)
    assert dict(result["reasons"]) == {"modality_SR": 1, "lesion_under_blank": 1}
    assert result["written"] == 3
    assert result["dropped"]["findings.csv"] == 1
    assert command.report(out, result) == 1
    assert run(tree, out, blanking=Blanking("none"))["written"] == 4
    # A box that is marked later takes the picture away again.
    assert run(tree, out)["written"] == 3
    assert len(written(out)) == 3


def test_images_that_cannot_be_judged_are_refused(tmp_path):
    root = tmp_path / "raw"
    put(identified(1, pixels=np.full((64, 64), 7, np.uint16)), root / "blank.dcm")
    big = breast_picture(640, 512)
    big[300, 100] = 60000
    put(identified(2, pixels=big, BitsStored=12, syntax=uid.ExplicitVRLittleEndian), root / "overlay.dcm")
    odd = identified(3)
    odd.HighBit = 15
    put(odd, root / "odd.dcm")
    multi = identified(4, NumberOfFrames="3")
    put(multi, root / "multi.dcm")
    put(identified(5), root / "one.dcm")
    put(identified(5), root / "two.dcm")
    put(identified(6), root / "broken.dcm")
    (root / "broken.dcm").write_bytes((root / "broken.dcm").read_bytes()[:-5000])
    result = run(root, tmp_path / "out")
    assert dict(result["reasons"]) == {
        "no_breast_found": 1, "odd_high_bit": 1, "multi_frame": 1, "TruncatedPixelData": 1, "duplicate_file": 1,
    }  # fmt: skip
    assert result["problems"] == []
    # What stands in unused bits of an uncompressed file may be an overlay: it is gone.
    (source,) = [row for row in result["mapping"].to_dict("records") if row["path"] == "overlay.dcm"]
    assert read_image(tmp_path / "out" / source["new_path"]).pixels.max() < 4096


def test_signed_pixels_keep_their_values(tmp_path):
    picture = (breast_picture(640, 512).astype(np.int32) - 1000).astype(np.int16)
    put(identified(pixels=picture, BitsStored=16, PixelRepresentation=1), tmp_path / "raw" / "a.dcm")
    result = run(tmp_path / "raw", tmp_path / "out", blanking=Blanking("none"), compress=True)
    (new,) = (read_image(path).pixels for path in (tmp_path / "out").rglob("*.dcm"))
    assert new.dtype == np.int16
    np.testing.assert_array_equal(new, picture)
    assert result["problems"] == []


# --- resuming, tables, the audit


def test_a_second_run_writes_nothing_and_a_changed_file_alone_is_made_again(tree, tmp_path):
    out = tmp_path / "out"
    run(tree, out)
    first = {path: path.stat().st_mtime_ns for path in out.rglob("*.dcm")}
    assert run(tree, out)["reused"] == 4
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.dcm")} == first
    put(identified(1, "L", "CC", pixels=breast_picture(640, 512, seed=8)), tree / "HOSP-4711" / "IM000001")
    assert run(tree, out)["reused"] == 3
    next(iter(first)).write_bytes(b"cut short")
    result = run(tree, out)
    assert (result["reused"], result["problems"]) == (3, [])
    assert run(tree, out, blanking=Blanking("outside"))["reused"] == 0


@pytest.mark.parametrize(
    ("head", "row", "kept"),
    [
        ("image_id,pathology,note", "1.2.752.24.7.1.1,malignant,Lindqvist", "malignant"),
        ("file,pathology", "HOSP-4711/IM000001,malignant", "malignant"),
        ("file,pathology,patient_id", "IM000001,Lindqvist,HOSP-4711", ""),
    ],
)
def test_labels_of_every_key(tree, tmp_path, head, row, kept):
    (tree / "labels.csv").write_text(f"{head}\n{row}\n")
    result = run(tree, tmp_path / "out")
    table = pd.read_csv(tmp_path / "out" / "labels.csv", dtype="string", keep_default_na=False)
    mapping = result["mapping"].set_index("path").loc["HOSP-4711/IM000001"]
    key = head.split(",")[0]
    assert table[key].tolist() == [mapping["new_image_id" if key == "image_id" else "new_path"]]
    assert table["pathology"].tolist() == [kept]
    assert "note" not in table
    if "patient_id" in table:
        assert table["patient_id"].tolist() == [mapping["new_patient_id"]]
    assert result["problems"] == []


def spoil(path, **values):
    ds = pydicom.dcmread(path)
    for name, value in values.items():
        setattr(ds, name, value)
    ds.save_as(path, enforce_file_format=True)


@pytest.mark.parametrize(
    ("values", "found"),
    [
        ({"Manufacturer": "Lindqvist"}, "Manufacturer carries"),
        ({"BodyPartExamined": "HOSP-4711"}, "BodyPartExamined carries"),
        ({"StudyDate": "20240229"}, "StudyDate has a value"),
        ({"PatientName": "Somebody"}, "PatientName has a value"),
        ({"StudyInstanceUID": "1.2.752.24.7.2"}, "StudyInstanceUID holds an original"),
        ({"FrameOfReferenceUID": "2.25.5"}, "FrameOfReferenceUID is not on the whitelist"),
        ({"PatientAge": "091Y"}, "PatientAge is above 90"),
        ({"VOILUTSequence": [item(PatientComments="x")]}, "PatientComments is not on the whitelist"),
    ],
)
def test_the_audit_finds_what_is_put_back(tree, tmp_path, values, found):
    out = tmp_path / "out"
    run(tree, out)
    sources = [read_source(path, tree, KEY) for path in dicom_folder.dicom_files(tree)]
    wanted = [source for source in sources if source.reason is None]
    (out / command.SUMMARY).unlink()
    beside = {name: pd.read_csv(out / name, dtype="string") for name in ("labels.csv", "findings.csv")}
    assert audit.audit(out, sources, wanted, beside) == []
    spoil(out / wanted[0].new_path, **values)
    (problem,) = audit.audit(out, sources, wanted, beside)
    assert found in problem
    assert not any(secret in problem for secret in SECRETS)


def test_the_audit_reads_tables_names_and_strangers(tree, tmp_path):
    out = tmp_path / "out"
    result = run(tree, out)
    sources = [read_source(path, tree, KEY) for path in dicom_folder.dicom_files(tree)]
    wanted = [source for source in sources if source.reason is None]
    beside = {"labels.csv": pd.DataFrame({"patient_id": ["HOSP-4711"], "site": ["20240229"]})}
    (out / "HOSP-4711").mkdir()
    (out / "HOSP-4711" / "x").write_text("x")
    problems = " ".join(audit.audit(out, sources, wanted, beside))
    for word in ("are not of this run", "labels.csv, column patient_id", "labels.csv, column site", "name carries"):
        assert word in problems
    assert result["problems"] == []


def test_a_failed_audit_leaves_no_summary(tree, tmp_path, capsys):
    out = tmp_path / "out"
    out.mkdir()
    (out / "stranger.txt").write_text("old")
    result = run(tree, out)
    assert not (out / command.SUMMARY).exists()
    with pytest.raises(UserError, match="do not pass"):
        command.report(out, result)
    (out / "stranger.txt").unlink()
    assert run(tree, out)["problems"] == []
    assert (out / command.SUMMARY).exists()


# --- the command line


@pytest.fixture
def key_file(tmp_path):
    path = tmp_path / "key"
    path.write_text("0123456789abcdef" * 4)
    path.chmod(0o600)
    return path


def test_the_command_line_prints_nothing_of_the_original(tree, tmp_path, key_file, capfd):
    words = ["pseudonymise", str(tree), str(tmp_path / "out"), "--key-file", str(key_file), "--threads", "2"]
    assert cli.main(words) == 0
    said = capfd.readouterr()
    assert "4 images of 1 patients" in said.out
    assert "audit passed" in said.out
    for secret in SECRETS:
        assert secret.lower() not in (said.out + said.err).lower()
    assert not (tmp_path / "map.csv").exists()
    old = os.umask(0)
    try:
        assert cli.main([*words, "--mapping", str(tmp_path / "map.csv")]) == 0
    finally:
        os.umask(old)
    assert stat.S_IMODE((tmp_path / "map.csv").stat().st_mode) == 0o600
    mapping = pd.read_csv(tmp_path / "map.csv", dtype="string")
    assert set(mapping["patient_id"]) == {"HOSP-4711"}
    assert mapping["reason"].fillna("-").value_counts().to_dict() == {"-": 4, "modality_SR": 1}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{tree}", "{tree}/new", "--key-file", "{key}"], "lie in each other"),
        (["{tree}", "{tree}", "--key-file", "{key}"], "lie in each other"),
        (["{tree}", "{tmp}", "--key-file", "{key}"], "lie in each other"),
        (["{tree}", "{tmp}/out", "--key-file", "{key}", "--mapping", "{tmp}/out/map.csv"], "would be passed on"),
        (["{tree}", "{tmp}/out", "--key-file", "{key}", "--corner", "30x15"], "is not WIDTHxHEIGHT"),
        (["{tree}", "{tmp}/out", "--key-file", "{key}", "--findings", "{tmp}/none.csv"], "does not exist"),
        (["{tmp}/none", "{tmp}/out", "--key-file", "{key}"], "is not a directory"),
    ],
)
def test_bad_requests_are_one_sentence(tree, tmp_path, key_file, capsys, words, message):
    places = {"tree": tree, "tmp": tmp_path, "key": key_file}
    assert cli.main(["pseudonymise", *(word.format(**places) for word in words)]) == 2
    said = capsys.readouterr()
    assert message in said.err
    assert len(said.err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_a_tree_with_paths_that_are_not_utf_8_is_refused_before_anything_is_written(tree, tmp_path, key_file, capsys):
    next(tree.rglob("*.dcm")).rename(os.fsdecode(os.fsencode(tree) + b"/M\xfcller.dcm"))
    assert cli.main(["pseudonymise", str(tree), str(tmp_path / "out"), "--key-file", str(key_file)]) == 2
    said = capsys.readouterr().err
    assert "1 of 5 DICOM files" in said
    assert "ller" not in said
    assert not (tmp_path / "out").exists()
