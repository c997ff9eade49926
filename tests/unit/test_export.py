"""Each export is opened by the library it is meant for."""

import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from mammoflow import cli, outlines, tables
from mammoflow.datasets import vindr_mammo
from mammoflow.exports import FORMATS, common, nnunet, webdataset
from mammoflow.imaging import png
from mammoflow.imaging.geometry import Geometry
from results_tree import HEIGHT, WIDTH, cohort_tables

POLYGON = [[80, 120], [130, 120], [130, 180]]
CIRCLE = [[105, 150], [20]]


@pytest.fixture(scope="module")
def cohort(tmp_path_factory) -> tuple[Path, Path]:
    """(directory of a cohort, store): two archives, 20 patients; one finding has a contour, one a circle."""
    root = tmp_path_factory.mktemp("export")
    manifest, findings = cohort_tables(20, seed=4)
    findings.loc[0, ["geometry", "points"]] = ["polygon", tables.to_json(POLYGON)]
    findings.loc[1, ["geometry", "points"]] = ["circle", tables.to_json(CIRCLE)]
    findings.loc[2, "finding_categories"] = "['Mass', 'Skin Retraction']"
    findings.loc[3, ["finding_categories", "label_malignant"]] = [pd.NA, pd.NA]
    findings.loc[4, common.OUT_BOX] = pd.NA  # a finding without a place: its image teaches a detector nothing
    directory, store = root / "pooled", root / "store"
    tables.write(manifest, directory / "manifest.parquet")
    tables.write(findings, directory / "findings.parquet")
    rng = np.random.default_rng(0)
    for path in manifest["image_path"].dropna():
        png.write(store / path, rng.integers(0, 2**16, (HEIGHT, WIDTH), dtype=np.uint16))
    return directory, store


def export(cohort: tuple[Path, Path], name: str, out: Path) -> Path:
    directory, store = cohort
    arguments = ["export", name, "--cohort", str(directory), "--store", str(store), "--out", str(out)]
    assert cli.main(arguments) == 0
    return out


def read(cohort: tuple[Path, Path]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(images that take part, findings)."""
    manifest = tables.read(cohort[0] / "manifest.parquet", "manifest")
    findings = tables.read(cohort[0] / "findings.parquet", "manifest_findings")
    return manifest[manifest["exclude_reason"].isna()], findings


def test_coco(cohort, tmp_path):
    from pycocotools.coco import COCO

    images, findings = read(cohort)
    out = export(cohort, "coco", tmp_path)
    found = {}
    for split in tables.SPLITS:
        coco = COCO(str(out / f"{split}.json"))
        assert {category["name"] for category in coco.loadCats(coco.getCatIds())} == {
            "Lesion",
            "Mass",
            "Skin Retraction",
        }
        for entry in coco.loadImgs(coco.getImgIds()):
            assert entry["split"] == split
            assert cv2.imread(str(cohort[1] / entry["file_name"]), -1).shape == (entry["height"], entry["width"])
            boxes = coco.loadAnns(coco.getAnnIds(imgIds=entry["id"]))
            found |= {(entry["dataset"], entry["source_image_id"]): (entry, boxes, coco)}
    unmarked = findings.loc[4, ["dataset", "image_id"]]
    assert set(images[["dataset", "image_id"]].itertuples(index=False, name=None)) - set(found) == {tuple(unmarked)}

    kept = findings.drop(index=4)
    assert sum(len(boxes) for _, boxes, _ in found.values()) == len(kept) + 1  # one finding has two categories
    for row in kept.to_dict("records"):
        entry, boxes, coco = found[row["dataset"], row["image_id"]]
        x, y, width, height = next(box["bbox"] for box in boxes if box["finding_id"] == row["finding_id"])
        assert [x, y, x + width, y + height] == pytest.approx([row[name] for name in common.OUT_BOX])

    entry, boxes, coco = found[findings.loc[0, "dataset"], findings.loc[0, "image_id"]]
    geometry = Geometry.from_row(
        images.set_index(["dataset", "image_id"]).loc[(entry["dataset"], entry["source_image_id"])]
    )
    moved = geometry.forward([[x, y, x, y] for x, y in POLYGON])[:, :2]
    np.testing.assert_allclose(np.reshape(boxes[0]["segmentation"][0], (-1, 2)), moved, atol=0.01)
    assert boxes[0]["area"] == pytest.approx(50 * 60 / 2 / 4)  # half of the box, at half the scale
    assert coco.annToMask(boxes[0]).sum() == pytest.approx(boxes[0]["area"], rel=0.1)
    circle = found[findings.loc[1, "dataset"], findings.loc[1, "image_id"]][1][0]
    assert circle["area"] == pytest.approx(np.pi * 10**2, rel=0.01)


def test_monai_decathlon(cohort, tmp_path, capsys):
    from monai.data import load_decathlon_datalist

    images, findings = read(cohort)
    path = export(cohort, "monai", tmp_path) / "dataset.json"
    unmarked = findings.loc[4, ["dataset", "image_id"]]
    assert "left out: 1 of" in capsys.readouterr().err
    images = images[(images[["dataset", "image_id"]] != unmarked).any(axis=1)]
    boxes = 0
    for key, split in (("training", "train"), ("validation", "val"), ("test", "test")):
        entries = load_decathlon_datalist(str(path), False, data_list_key=key, base_dir=str(cohort[1]))
        rows = images[images["split"] == split].set_index(["dataset", "image_id"])
        assert {tuple(entry["case"].split("|")) for entry in entries} == set(rows.index)
        for entry in entries:
            row = rows.loc[tuple(entry["case"].split("|"))]
            assert Path(entry["image"]).is_file()
            assert entry["label"] == row["label_malignant"]
            assert entry.get("fold") == (row["fold"] if split == "train" else None)
            assert len(entry["box"]) == len(entry["box_label"])
            boxes += len(entry["box"])
    assert boxes == findings["out_xmin"].notna().sum()


def test_webdataset(cohort, tmp_path):
    import webdataset

    images, _ = read(cohort)
    out = export(cohort, "webdataset", tmp_path)
    for split in tables.SPLITS:
        rows = images[images["split"] == split].set_index(["dataset", "image_id"])
        shards = sorted(map(str, out.glob(f"{split}-*.tar")))
        dataset = webdataset.WebDataset(shards, shardshuffle=False).decode("l8").to_tuple("png", "cls", "json")
        samples = list(dataset)
        assert {(note["dataset"], note["image_id"]) for _, _, note in samples} == set(rows.index)
        for picture, label, note in samples:
            row = rows.loc[(note["dataset"], note["image_id"])]
            assert label == row["label_malignant"]
            stored = cv2.imread(str(cohort[1] / row["image_path"]), cv2.IMREAD_UNCHANGED)
            np.testing.assert_allclose(picture, stored / 257, atol=0.5)


def test_webdataset_cuts_shards_and_removes_those_of_an_earlier_export(cohort, tmp_path):
    images, findings = read(cohort)
    source = common.Export("pooled", images, findings, cohort[1])
    (tmp_path / "train-000999.tar").write_bytes(b"old")
    notes = webdataset.write(source, tmp_path, shard_bytes=200_000)
    shards = sorted(path.name for path in tmp_path.glob("train-*.tar"))
    assert len(shards) > 1
    assert shards == [f"train-{number:06d}.tar" for number in range(len(shards))]
    assert f"in {len(shards)} tars" in notes[0]
    before = (tmp_path / shards[0]).read_bytes()
    webdataset.write(source, tmp_path, shard_bytes=200_000)
    assert (tmp_path / shards[0]).read_bytes() == before


def test_croissant(cohort, tmp_path):
    import mlcroissant

    _, findings = read(cohort)
    manifest = tables.read(cohort[0] / "manifest.parquet", "manifest")
    path = export(cohort, "croissant", tmp_path) / "croissant.json"
    dataset = mlcroissant.Dataset(jsonld=str(path))
    assert dataset.metadata.issues.errors == set()
    # A cohort is not published, so it has no date of it.
    assert all("datePublished" in warning for warning in dataset.metadata.issues.warnings)
    assert "https://creativecommons.org/licenses/by/3.0/" in dataset.metadata.license
    assert any("redistribution not granted" in text for text in dataset.metadata.license)
    assert "Suckling" in dataset.metadata.cite_as
    rows = list(dataset.records("manifest"))
    assert len(rows) == len(manifest)
    assert rows[0]["manifest/image_id"].decode() == manifest.loc[0, "image_id"]
    assert rows[0]["manifest/out_height"] == HEIGHT
    boxes = np.array([row["findings/out_xmin"] for row in dataset.records("findings")], dtype=float)
    np.testing.assert_allclose(boxes, findings["out_xmin"].to_numpy(float, na_value=np.nan))


def test_vindr_tables_are_read_by_the_adapter_of_that_archive(cohort, tmp_path):
    images, findings = read(cohort)
    out = export(cohort, "vindr", tmp_path)
    breasts = pd.read_csv(out / "breast-level_annotations.csv", dtype="string")
    rows = pd.read_csv(out / "finding_annotations.csv", dtype="string")
    assert list(breasts.columns[:10]) == vindr_mammo.BREAST_COLUMNS
    assert list(rows.columns[:16]) == list(tables.FINDINGS)[:16]
    assert len(breasts) == len(images)
    marked = rows[rows["finding_categories"] != "['No Finding']"]
    without = ~images["image_id"].isin(findings["image_id"])
    assert (len(marked), len(rows)) == (len(findings), len(findings) + without.sum())
    assert (
        breasts["split"] == breasts["cohort_split"].map({"train": "training", "val": "training", "test": "test"})
    ).all()
    # What VinDr always has and this pool has not: a series, and one word per finding.
    for table, name in ((breasts, "breast-level_annotations.csv"), (rows, "finding_annotations.csv")):
        fixed = table.assign(series_id="1", breast_birads=table["breast_birads"].fillna("BI-RADS 1"))
        if "xmin" in table:
            fixed["finding_categories"] = fixed["finding_categories"].replace("['Lesion']", "['Mass']")
            fixed = fixed[(fixed["finding_categories"] == "['No Finding']") | fixed["xmin"].notna()]
        fixed.to_csv(tmp_path / name, index=False)
    inventory = vindr_mammo.inventory(tmp_path)
    assert sorted(inventory.images["image_id"]) == sorted(images["image_id"])
    stored = inventory.findings.set_index(["image_id"])["xmin"].sort_index()
    assert stored.tolist() == findings.set_index("image_id")["xmin"].sort_index().tolist()


@pytest.fixture(scope="module")
def raw(cohort, tmp_path_factory) -> Path:
    return export(cohort, "nnunet", tmp_path_factory.mktemp("nnunet") / "Dataset101_Mammo")


def test_nnunet_keeps_the_rules_of_its_raw_format(cohort, raw):
    """documentation/dataset_format.md: cases, channels, consecutive labels, sizes; splits_final.json of case names."""
    images, _ = read(cohort)
    description = json.loads((raw / "dataset.json").read_text())
    assert {"channel_names", "labels", "numTraining", "file_ending"} <= set(description)
    labels = description["labels"]
    assert labels["background"] == 0
    assert sorted(labels.values()) == list(range(len(labels)))
    cases = {
        part: {path.name.removesuffix(".png") for path in (raw / f"labels{part}").iterdir()} for part in ("Tr", "Ts")
    }
    for part, names in cases.items():
        assert {path.name for path in (raw / f"images{part}").iterdir()} == {f"{name}_0000.png" for name in names}
    assert len(cases["Tr"]) == description["numTraining"]
    seen = set()
    for path in sorted(raw.glob("labels*/*.png")):
        label = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        image = cv2.imread(
            str(path.parent.parent / path.parent.name.replace("labels", "images") / f"{path.stem}_0000.png"), -1
        )
        assert label.shape == image.shape == (HEIGHT, WIDTH)
        assert label.dtype == np.uint8
        seen |= set(np.unique(label).tolist())
    assert seen == set(labels.values())
    splits = json.loads((raw / "splits_final.json").read_text())
    assert len(splits) == images["fold"].nunique() + 1
    for split in splits:
        assert set(split["train"]) | set(split["val"]) <= cases["Tr"]
        assert not set(split["train"]) & set(split["val"])
    patients = {nnunet.member_name(row.dataset, row.image_id): row.group_id for row in images.itertuples()}
    for split in splits:
        assert not {patients[case] for case in split["train"]} & {patients[case] for case in split["val"]}


def test_nnunet_itself_finds_nothing_to_complain_about(cohort, raw):
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
    from nnunetv2.imageio.reader_writer_registry import determine_reader_writer_from_dataset_json

    verify_dataset_integrity(str(raw), num_processes=1)  # raises on the first fault
    label = sorted((raw / "labelsTr").glob("*.png"))[0]
    image = raw / "imagesTr" / f"{label.stem}_0000.png"
    reader = determine_reader_writer_from_dataset_json(json.loads((raw / "dataset.json").read_text()), str(image))()
    pixels, _ = reader.read_images([str(image)])
    stored = cv2.imread(str(image), cv2.IMREAD_UNCHANGED)
    np.testing.assert_array_equal(pixels, stored[None, None].astype(np.float32))  # 16 bits arrive whole


def test_nnunet_refuses_what_the_export_must_never_write(raw, tmp_path):
    """The check above can fail: a label without a name in dataset.json is refused."""
    from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity

    broken = tmp_path / raw.name
    shutil.copytree(raw, broken)
    label = sorted((broken / "labelsTr").glob("*.png"))[0]
    png.write(label, np.full((HEIGHT, WIDTH), 9, np.uint8))
    with pytest.raises(RuntimeError):
        verify_dataset_integrity(str(broken), num_processes=1)


def test_nnunet_draws_contours_circles_and_boxes():
    box = np.array([10.0, 20.0, 30.0, 60.0])
    square = np.array([[2.0, 2.0], [8.0, 2.0], [8.0, 8.0], [2.0, 8.0]])

    def lesion(malignant, outline=None, place=box):
        return {"label_malignant": malignant, "rings": None if outline is None else [outline], "box": place}

    labels = nnunet.draw_labels([lesion(0)], 80, 40)
    assert labels.sum() == 20 * 40
    assert labels[20:60, 10:30].all()
    drawn = nnunet.draw_labels([lesion(1, square)], 80, 40)
    rows, columns = np.nonzero(drawn == 2)
    assert (rows.min(), rows.max(), columns.min(), columns.max()) == (2, 7, 2, 7)
    # the malignant one is seen where they overlap, whatever the order
    for lesions in ([lesion(0), lesion(None), lesion(1)], [lesion(1), lesion(0), lesion(None)]):
        assert set(np.unique(nnunet.draw_labels(lesions, 80, 40))) == {0, 2}
    assert nnunet.draw_labels([lesion(0, place=np.array([39.6, 79.6, 39.9, 79.9]))], 80, 40).sum() == 1


def test_images_whose_lesions_are_not_all_marked_are_left_out_of_detection(cohort):
    images, findings = read(cohort)
    unlocalised = images.assign(dataset="rsna")
    with pytest.raises(Exception, match="no image whose lesions are all marked"):
        common.Export("x", unlocalised, findings, cohort[1]).fully_marked()
    kept, notes = common.Export("x", images, findings, cohort[1]).fully_marked()
    assert len(images) - len(kept) == 1
    assert notes == [f"left out: 1 of {len(images)} images, since their lesions are not all marked"]


def test_area_of_a_polygon():
    assert outlines.area([np.array([[0.0, 0.0], [4.0, 0.0], [4.0, 3.0]])]) == 6


def test_a_missing_picture_and_an_unknown_format_say_so(cohort, tmp_path, capsys):
    arguments = ["--cohort", str(cohort[0]), "--store", str(tmp_path), "--out", str(tmp_path / "out")]
    for name in ("nnunet", "webdataset"):
        assert cli.main(["export", name, *arguments]) == 2
        assert "does not exist: run convert" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["export", "voc", *arguments])
    message = capsys.readouterr().err
    assert all(name in message for name in FORMATS)
