import json

import numpy as np
import pandas as pd
import pytest

from made_tables import make_findings, make_images, make_ledger
from mammoflow import cli, labels, manifest, settings, tables
from mammoflow.errors import UserError

POLICY = labels.default_policy()


def empty_crops() -> pd.DataFrame:
    return tables.finish("crop_ledger", pd.DataFrame(columns=list(tables.CROP_LEDGER)))


def set_rows(table: pd.DataFrame, image_ids: list[str], **values) -> pd.DataFrame:
    table = table.copy()
    for name, value in values.items():
        table.loc[table["image_id"].isin(image_ids), name] = value
    return table


@pytest.fixture
def archive():
    """images, findings and a convert ledger of 3 patients."""
    images = make_images(3)
    return images, make_findings(images), make_ledger(images)


def test_each_image_keeps_its_row_and_says_why_it_is_left_out(archive):
    images, findings, ledger = archive
    ids = images["image_id"].tolist()
    images = set_rows(images, ids[:1], use="excluded", excluded_reason="missing_file", path=pd.NA)
    images = set_rows(images, ids[1:2], use="excluded", excluded_reason="excluded_by_config")
    ledger = ledger[~ledger["image_id"].isin(ids[:3])]  # the third was dealt into no shard
    ledger = set_rows(ledger, ids[3:4], status="failed", error="DecodeError: truncated", path=pd.NA)
    ledger = set_rows(ledger, ids[4:5], status="skipped", error="modality MR")
    images = set_rows(images, ids[5:7], pathology=pd.NA, breast_birads=pd.NA)
    images = set_rows(images, ids[6:7], breast_birads="BI-RADS 3")
    rows = manifest.build_manifest(images, findings, ledger, POLICY).set_index("image_id")
    reasons = rows["exclude_reason"]
    assert reasons.reindex(ids[:7]).tolist() == [
        "missing_file",
        "excluded_by_config",
        "not_selected",
        "convert_failed",
        "skipped:modality MR",
        "no_label",
        "no_label:birads3",
    ]
    assert reasons.reindex(ids[7:]).isna().all()
    assert len(rows) == len(images)
    assert rows["split"].isna().all()
    assert set(rows["label_policy"]) == {settings.recipe("manifest", POLICY)}


def test_flags_and_unprocessed_images_take_no_part_when_told_so(archive):
    images, findings, ledger = archive
    ids = images["image_id"].tolist()
    ledger = set_rows(ledger, ids[:1], flags="for_processing;noise_only")
    ledger = set_rows(ledger, ids[1:2], flags="implant;noise_only")
    images = set_rows(images, ids[2:3], presentation="processing")
    reasons = {
        (flags, kind): manifest.build_manifest(images, findings, ledger, POLICY, flags, kind)
        .set_index("image_id")["exclude_reason"]
        .reindex(ids[:4])
        .fillna("-")
        .tolist()
        for flags in ((), ("noise_only", "implant"))
        for kind in ("exclude", "only")
    }
    raw, read = "for_processing", "for_presentation"
    assert reasons[(), "exclude"] == [raw, "-", raw, "-"]
    assert reasons[(), "only"] == ["-", read, "-", read]
    assert reasons[("noise_only", "implant"), "exclude"] == [raw, "flag:noise_only", raw, "-"]
    assert reasons[("noise_only", "implant"), "only"] == ["flag:noise_only", read, "-", read]
    rows = manifest.build_manifest(images, findings, ledger, POLICY).set_index("image_id")
    assert rows.loc[ids[:3], "presentation"].tolist()[::2] == ["processing", "processing"]


def test_what_only_the_pixels_tell_comes_from_the_ledger(archive):
    images, findings, ledger = archive
    images = set_rows(images, images["image_id"].tolist()[:1], height=4000, width=3000, transfer_syntax="1.2")
    rows = manifest.build_manifest(images, findings, ledger, POLICY)
    assert rows.loc[0, ["height", "width", "transfer_syntax"]].tolist() == [4000, 3000, "1.2"]
    assert rows.loc[1, ["height", "width", "transfer_syntax"]].tolist() == [400, 300, "1.2.840.10008.1.2.4.90"]
    assert rows.loc[0, "image_path"] == ledger.loc[0, "path"]
    assert rows.loc[0, "source_path"] == images.loc[0, "path"]


def test_findings_are_pooled_per_image(archive):
    images, findings, ledger = archive
    first, second, third = images["image_id"].tolist()[:3]
    kept = findings[findings["image_id"].isin([first, second])]
    kept = set_rows(kept, [first], finding_categories="['Skin Retraction', 'Mass']")
    more = kept[kept["image_id"] == first].assign(finding_id="again", finding_categories="['Mass', 'Asymmetry']")
    kept = set_rows(kept, [second], finding_categories="['No Finding']", geometry="none")
    rows = manifest.build_manifest(images, pd.concat([kept, more]), ledger, POLICY).set_index("image_id")
    assert rows.loc[first, "finding_categories"] == "['Asymmetry', 'Mass', 'Skin Retraction']"
    assert rows.loc[second, "finding_categories"] == "['No Finding']"
    assert pd.isna(rows.loc[third, "finding_categories"])
    assert rows.loc[[first, second, third], "n_findings"].tolist() == [2, 0, 0]


def test_boxes_reach_the_working_image(archive):
    images, findings, ledger = archive
    left, right, masked, lost = (images["image_id"].iloc[index] for index in (0, 2, 4, 5))  # L, R, L, L
    findings = set_rows(findings, [masked], geometry="mask", xmin=pd.NA, ymin=pd.NA, xmax=pd.NA, ymax=pd.NA)
    ledger = set_rows(ledger, [lost], **dict.fromkeys(tables.GEOMETRY, pd.NA), status="failed")
    cropped = findings[findings["image_id"] == masked][["dataset", "image_id", "patient_id", "finding_id"]]
    cropped = cropped.assign(
        status="ok", recipe="1", path="roi.png", flags="mask_resized", xmin=20.0, ymin=10.0, xmax=22.0, ymax=14.0
    )
    rows = manifest.build_manifest(images, findings, ledger, POLICY)
    boxed = manifest.build_findings(findings, tables.finish("crop_ledger", cropped), rows, POLICY).set_index("image_id")
    # stored 40..80 x 30..90, crop origin (20, 10), 200 wide, halved; the right breast is mirrored
    assert boxed.loc[left, manifest.OUT_BOX].tolist() == [10, 10, 30, 40]
    assert boxed.loc[right, manifest.OUT_BOX].tolist() == [70, 10, 90, 40]
    assert boxed.loc[masked, [*manifest.BOX, *manifest.OUT_BOX]].tolist() == [20, 10, 22, 14, 0, 0, 1, 2]
    assert boxed.loc[masked, ["roi_path", "flags"]].tolist() == ["roi.png", "mask_resized"]
    assert boxed.loc[lost, manifest.OUT_BOX].isna().all()


def test_another_policy_changes_labels_and_nothing_else(archive):
    images, findings, ledger = archive
    images = images.assign(pathology=pd.NA, breast_birads="BI-RADS 3")
    first = manifest.build_manifest(images, findings, ledger, POLICY)
    second = manifest.build_manifest(images, findings, ledger, {**POLICY, "birads3": "malignant"})
    assert first["label_malignant"].isna().all()
    assert (second["label_malignant"] == 1).all()
    changed = {name for name in first if not first[name].equals(second[name])}
    assert changed == {"label_malignant", "label_policy", "exclude_reason"}


def write_archive(folder, images, findings, ledger, shards=2):
    tables.write(images, folder / "inventory" / "images.parquet")
    tables.write(findings, folder / "inventory" / "findings.parquet")
    paths = [folder / "convert" / f"{k:04d}-of-{shards:04d}.parquet" for k in range(shards)]
    for k, path in enumerate(paths):
        tables.write(ledger.iloc[k::shards], path)
    crop = folder / "crop.parquet"
    tables.write(empty_crops(), crop)
    return [
        "manifest",
        "rsna",
        "--inventory",
        f"{folder}/inventory",
        "--convert",
        *map(str, paths),
        "--crop",
        str(crop),
    ]


def test_command_writes_every_table_and_the_same_bytes_again(tmp_path, archive):
    images, findings, ledger = archive
    ledger = set_rows(ledger, ledger["image_id"].tolist()[:1], status="failed", error="DecodeError: broken", path=pd.NA)
    command = write_archive(tmp_path, images, findings, ledger)
    allow = ["--settings", '{"max_failed_fraction": 0.5}']
    contents = []
    for out in ("a", "b"):
        assert cli.main([*command, *allow, "--out", f"{tmp_path}/{out}"]) == 0
        contents.append({path.name: path.read_bytes() for path in (tmp_path / out).iterdir()})
    assert set(contents[0]) == {
        "manifest.parquet",
        "manifest.csv",
        "findings.parquet",
        "quarantine.csv",
        "summary.json",
    }
    assert contents[0] == contents[1]
    read = [tables.read(tmp_path / "a" / f"manifest.{suffix}", "manifest") for suffix in ("parquet", "csv")]
    pd.testing.assert_frame_equal(*read)
    summary = json.loads(contents[0]["summary.json"])
    assert summary["images"] == 12
    assert (summary["converted"], summary["failed"], summary["participating"]) == (11, 1, 11)
    assert summary["exclude_reasons"] == {"convert_failed": 1}
    assert sum(summary["labels"].values()) == 11
    assert summary["images_per_second"] == pytest.approx(11 / 6, abs=1e-3)
    quarantine = pd.read_csv(tmp_path / "a" / "quarantine.csv")
    assert quarantine[["stage", "error"]].to_numpy().tolist() == [["convert", "DecodeError: broken"]]
    assert quarantine["source_path"].tolist() == [images.loc[0, "path"]]


def test_the_gate_keeps_the_quarantine(tmp_path, capsys, archive):
    images, findings, ledger = archive
    failed = ledger["image_id"].tolist()[:3]
    errors = dict(zip(failed, ["DecodeError: a.dcm", "DecodeError: b.dcm", "ConstantImage"], strict=True))
    broken = set_rows(ledger, failed, status="failed", path=pd.NA).assign(error=ledger["image_id"].map(errors))
    assert cli.main([*write_archive(tmp_path, images, findings, broken), "--out", f"{tmp_path}/out"]) == 2
    message = capsys.readouterr().err
    assert "3 of 12 images (25.0%)" in message
    assert "2 x DecodeError; 1 x ConstantImage" in message
    kept = tmp_path / "out" / "quarantine.failed.csv"
    assert str(kept) in message
    assert pd.read_csv(kept)["image_id"].tolist() == failed
    assert not (tmp_path / "out" / "manifest.parquet").exists()
    # once mended, the old list does not stay to confuse
    assert cli.main([*write_archive(tmp_path, images, findings, ledger), "--out", f"{tmp_path}/out"]) == 0
    assert not kept.exists()


def test_an_archive_without_files_is_an_error(archive):
    with pytest.raises(UserError, match="none of the archive's files is present"):
        manifest.gate(archive[2].iloc[:0], 0.5, "quarantine.csv")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"image_id": "stranger"}, "older than the inventory"),
        ({"dataset": "vindr_mammo"}, "older than the inventory"),
        ({"recipe": "other"}, "different settings"),
        ({}, "stands in two"),
    ],
)
def test_ledgers_that_do_not_belong_together(tmp_path, archive, change, message):
    images, _, ledger = archive
    tables.write(ledger.iloc[:6], tmp_path / "a.parquet")
    second = ledger.iloc[6:7] if change else ledger.iloc[:1]
    tables.write(second.assign(**change).astype(tables.dtypes("convert_ledger")), tmp_path / "b.parquet")
    with pytest.raises(UserError, match=message):
        manifest.read_ledgers([tmp_path / "a.parquet", tmp_path / "b.parquet"], "convert_ledger", images, "rsna")


def test_failed_crops_are_listed_but_do_not_stop_the_dataset(tmp_path, archive):
    images, findings, ledger = archive
    crops = findings[["dataset", "image_id", "patient_id", "finding_id"]].assign(
        status=np.where(findings.index < 2, "failed", "ok"), error="MaskError: empty", recipe="1"
    )
    command = write_archive(tmp_path, images, findings, ledger)
    tables.write(tables.finish("crop_ledger", crops), tmp_path / "crop.parquet")
    assert cli.main([*command, "--out", f"{tmp_path}/out"]) == 0
    quarantine = pd.read_csv(tmp_path / "out" / "quarantine.csv")
    assert quarantine["stage"].tolist() == ["crop", "crop"]
    assert quarantine["finding_id"].tolist() == findings["finding_id"].tolist()[:2]
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert (summary["rois"], summary["rois_failed"]) == (10, 2)
