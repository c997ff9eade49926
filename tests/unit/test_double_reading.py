import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from mammoflow import cli
from mammoflow.datasets import vindr_mammo
from mammoflow.double_reading import merge, two_readings
from mammoflow.errors import UserError
from mammoflow.reading.agreement import agreement
from mammoflow.reading.files import CSV_COLUMNS, read_readings
from mammoflow.reading.match import box_iou, pair_findings
from mammoflow.reading.rules import broken_rules

HEIGHT, WIDTH = 800, 600
EXAMS = 30
BREASTS, FINDINGS = "breast-level_annotations.csv", "finding_annotations.csv"
NOTHING = dict.fromkeys(["finding_categories", "finding_birads", "xmin", "ymin", "xmax", "ymax"])


def reading(reader: str, exams=range(EXAMS), seed: int = 0) -> pd.DataFrame:
    """Four views of each exam; every third exam has a mass in the left breast. The reader shifts each box a little."""
    shift = np.random.default_rng([seed, sum(map(ord, reader))])
    rows = []
    for exam in exams:
        sick = exam % 3 == 0
        for side in "LR":
            grade = "BI-RADS 4" if sick and side == "L" else f"BI-RADS {1 + exam % 2}"
            for view in ("CC", "MLO"):
                row = {"reader": reader, "study_id": f"s{exam:02d}", "image_id": f"s{exam:02d}_{side}{view}",
                       "laterality": side, "view_position": view, "height": HEIGHT, "width": WIDTH,
                       "breast_birads": grade, "breast_density": f"DENSITY {'ABCD'[exam % 4]}"}  # fmt: skip
                box = NOTHING
                if sick and side == "L":
                    x, y = (100 + shift.integers(0, 8, 2)).tolist()
                    box = {"finding_categories": "['Mass']", "finding_birads": "BI-RADS 4",
                           "xmin": x, "ymin": y, "xmax": x + 80, "ymax": y + 60}  # fmt: skip
                rows.append({**row, **box})
    return pd.DataFrame(rows)[CSV_COLUMNS]


def save(table: pd.DataFrame, path: Path) -> Path:
    table.to_csv(path, index=False)
    return path


def label_studio(table: pd.DataFrame) -> list[dict]:
    """The table as Label Studio exports it: one task per image, percent coordinates, one annotation per reader."""
    tasks = []
    for (study, image), of_image in table.groupby(["study_id", "image_id"]):
        first = of_image.iloc[0]
        data = {"image": f"/data/{image}.png", "study_id": study, "image_id": image, "laterality": first["laterality"],
                "view_position": first["view_position"], "height": HEIGHT, "width": WIDTH}  # fmt: skip
        annotations = []
        for number, (reader, rows) in enumerate(of_image.groupby("reader")):
            result = [
                {
                    "id": f"g{name}",
                    "from_name": name,
                    "to_name": "image",
                    "type": "choices",
                    "value": {"choices": [rows[name].iloc[0]]},
                }
                for name in ("breast_birads", "breast_density")
                if isinstance(rows[name].iloc[0], str)
            ]
            for index, row in enumerate(rows[rows["xmin"].notna()].to_dict("records")):
                value = {"x": 100 * row["xmin"] / WIDTH, "y": 100 * row["ymin"] / HEIGHT, "rotation": 0,
                         "width": 100 * (row["xmax"] - row["xmin"]) / WIDTH,
                         "height": 100 * (row["ymax"] - row["ymin"]) / HEIGHT}  # fmt: skip
                common = {
                    "id": f"r{index}",
                    "to_name": "image",
                    "original_width": WIDTH,
                    "original_height": HEIGHT,
                    "value": value,
                }
                names = json.loads(row["finding_categories"].replace("'", '"'))
                result.append(
                    {
                        **common,
                        "from_name": "finding",
                        "type": "rectanglelabels",
                        "value": {**value, "rectanglelabels": names},
                    }
                )
                result.append(
                    {
                        **common,
                        "from_name": "finding_birads",
                        "type": "choices",
                        "value": {**value, "choices": [row["finding_birads"]]},
                    }
                )
            result.append(
                {"id": "t", "from_name": "comment", "to_name": "image", "type": "textarea", "value": {"text": ["?"]}}
            )
            annotations.append(
                {
                    "id": number,
                    "completed_by": {"id": number, "email": reader},
                    "was_cancelled": False,
                    "result": result,
                }
            )
        annotations.append({"id": 99, "completed_by": 7, "was_cancelled": True, "result": []})
        tasks.append({"id": len(tasks), "data": data, "annotations": annotations, "predictions": []})
    return tasks


@pytest.fixture
def two() -> pd.DataFrame:
    """Two readings that agree but for s01 (density), s03 (a box), s06 (category) and s09 (BI-RADS of a breast)."""
    other = reading("b")
    study = other["study_id"]
    other.loc[study == "s01", "breast_density"] = "DENSITY D"
    other.loc[other["image_id"] == "s03_LCC", list(NOTHING)] = pd.NA
    other.loc[other["image_id"] == "s06_LMLO", "finding_categories"] = "['Focal Asymmetry']"
    other.loc[(study == "s09") & (other["laterality"] == "R"), "breast_birads"] = "BI-RADS 3"
    return pd.concat([reading("a"), other], ignore_index=True)


def readings_of(tmp_path: Path, table: pd.DataFrame, name: str = "readings.csv"):
    return read_readings([save(table, tmp_path / name)])


def test_label_studio_and_csv_give_the_same_readings(two, tmp_path):
    exported = tmp_path / "export.json"
    exported.write_text(json.dumps(label_studio(two)))
    for one, other in zip(readings_of(tmp_path, two), read_readings([exported]), strict=True):
        pd.testing.assert_frame_equal(one, other, check_exact=False)


def test_concordant_exams_are_merged_and_the_others_wait(two, tmp_path):
    merged = merge(readings_of(tmp_path, two))
    assert merged.waiting == ["s01", "s03", "s06", "s09"]
    assert (merged.settled, merged.single) == ([], [])
    told = merged.disputes[["study_id", "image_id", "what", "value_1", "value_2"]].fillna("")
    assert told[told["study_id"] == "s03"].to_numpy().tolist() == [
        ["s03", "s03_LCC", "finding", "['Mass'] BI-RADS 4", ""]
    ]
    assert told[told["study_id"] == "s06"].to_numpy().tolist() == [
        ["s06", "s06_LMLO", "finding", "['Mass'] BI-RADS 4", "['Focal Asymmetry'] BI-RADS 4"]
    ]
    assert set(told.loc[told["study_id"] == "s01", "what"]) == {"breast_density"}
    assert told.loc[told["study_id"] == "s09", "image_id"].tolist() == ["s09_RCC", "s09_RMLO"]
    assert (merged.disputes["reader_1"] == "a").all()
    assert (merged.disputes["reader_2"] == "b").all()

    assert merged.breasts["study_id"].nunique() == EXAMS - 4
    marked = merged.findings[merged.findings["xmin"].notna()].set_index("image_id")
    assert len(marked) == 2 * (10 - 3)
    boxes = two[two["xmin"].notna()].set_index("image_id")
    mean = boxes.groupby("image_id")[["xmin", "ymin", "xmax", "ymax"]].mean().loc[marked.index]
    np.testing.assert_allclose(marked[mean.columns].to_numpy(float), mean.to_numpy(float))
    assert len(merged.findings) == len(merged.breasts) == 4 * (EXAMS - 4)


def test_the_third_reading_decides(two, tmp_path):
    third = reading("c", [1, 3, 6], seed=1)
    third.loc[third["image_id"] == "s03_LCC", "finding_categories"] = "Mass; Skin Retraction"
    merged = merge(readings_of(tmp_path, two), readings_of(tmp_path, third, "third.csv"))
    assert (merged.waiting, merged.settled) == (["s09"], ["s01", "s03", "s06"])
    assert set(merged.disputes["study_id"]) == {"s09"}
    assert merged.breasts["study_id"].nunique() == EXAMS - 1
    settled = merged.findings.set_index("image_id")
    assert settled.loc["s03_LCC", "finding_categories"] == "['Mass', 'Skin Retraction']"
    own = third.set_index("image_id")
    assert settled.loc["s06_LMLO", "xmin"] == own.loc["s06_LMLO", "xmin"]
    assert settled.loc["s01_LCC", "breast_density"] == "DENSITY B"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda third: third, "s02 has a third reading but is not in dispute"),
        (
            lambda third: third[third["study_id"] == "s01"].assign(reader="b"),
            "reader b cannot decide on an own reading",
        ),
        (lambda third: third[third["image_id"] == "s01_LCC"], "s01: image s01_LMLO is not in both"),
        (
            lambda third: third[third["study_id"] == "s01"].assign(reader=["c", "c", "d", "d"]),
            "s01 has 2 third readings",
        ),
    ],
)
def test_third_readings_that_cannot_count(two, tmp_path, change, message):
    third = readings_of(tmp_path, change(reading("c", [1, 2])), "third.csv")
    with pytest.raises(UserError, match=message):
        merge(readings_of(tmp_path, two), third)


def test_exams_read_once_or_thrice(two, tmp_path):
    once = two[(two["reader"] == "a") | (two["study_id"] != "s02")]
    assert merge(readings_of(tmp_path, once)).single == ["s02"]
    thrice = pd.concat([two, reading("c", [5])])
    with pytest.raises(UserError, match=r"s05 was read by 3 readers \(a, b, c\)"):
        merge(readings_of(tmp_path, thrice))


def test_kappa_of_a_textbook_table(tmp_path):
    """20 breasts on the scale A, B, C: 12 agree, 6 differ by one step and 2 by two."""
    pairs = 5 * ["AA"] + 4 * ["BB"] + 3 * ["CC"] + 3 * ["AB"] + 3 * ["BC"] + 2 * ["AC"]
    table = pd.concat([reading(name, range(len(pairs) // 2)) for name in "ab"], ignore_index=True)
    breast = table.groupby(["study_id", "laterality"]).ngroup().to_numpy()
    side = (table["reader"] == "b").astype(int).to_numpy()
    table["breast_density"] = [f"DENSITY {pairs[row][which]}" for row, which in zip(breast, side, strict=True)]
    result = agreement(*two_readings(readings_of(tmp_path, table)))
    density = result["breast_density"]
    one, other = (np.array([" ABC".index(pair[which]) for pair in pairs]) for which in (0, 1))
    for key, power in (("kappa", 0), ("kappa_linear", 1), ("kappa_quadratic", 2)):
        distance = np.abs(one[:, None] - other[None])
        cost = (distance > 0) if power == 0 else distance**power
        assert density[key] == pytest.approx(1 - np.diag(cost).mean() / cost.mean(), abs=1e-6)
    assert (density["n"], density["same"]) == (20, 0.6)
    assert density["table"]["DENSITY A"] == {"DENSITY A": 5, "DENSITY B": 3, "DENSITY C": 2}
    assert (result["exams"], result["breasts"]) == (10, 20)
    assert result["findings"]["Mass"]["kappa"] == 1
    assert result["findings"]["Asymmetry"]["kappa"] is None  # nobody saw one
    json.dumps(result, allow_nan=False)


def test_a_focal_asymmetry_is_no_asymmetry(two, tmp_path):
    found = agreement(*two_readings(readings_of(tmp_path, two)))["findings"]
    assert (found["Focal Asymmetry"]["breasts_1"], found["Focal Asymmetry"]["breasts_2"]) == (0, 1)
    assert found["Asymmetry"]["breasts_2"] == 0
    assert found["any"]["breasts_1"] == 10


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"breast_birads": "BI-RADS 1"}, "no finding in a BI-RADS 1 breast"),
        ({"finding_birads": "BI-RADS 2"}, "a finding is BI-RADS 3 or more"),
        ({"finding_birads": pd.NA}, "a finding is BI-RADS 3 or more"),
        ({"finding_birads": "BI-RADS 5"}, "a finding is not graded above its breast"),
        ({"breast_density": pd.NA}, "a breast has its global labels"),
        ({"xmax": WIDTH + 1}, "a finding has a box inside its image"),
        ({"ymax": 50}, "a finding has a box inside its image"),
        ({"xmin": pd.NA}, "a finding has a box inside its image"),
    ],
    ids=str,
)
def test_broken_rules_are_named(tmp_path, change, rule):
    table = reading("a").astype(object)
    assert broken_rules(*readings_of(tmp_path, table)).empty
    left = (table["study_id"] == "s00") & (table["laterality"] == "L")
    table.loc[left, list(change)] = list(change.values())
    broken = broken_rules(*readings_of(tmp_path, table))
    assert set(broken["rule"]) == {rule}
    assert set(broken["image_id"]) == {"s00_LCC", "s00_LMLO"}
    assert set(broken["reader"]) == {"a"}


def test_signs_of_skin_and_nodes_need_no_grade_and_views_must_agree(tmp_path):
    table = reading("a")
    table.loc[table["image_id"] == "s00_LCC", ["finding_categories", "finding_birads"]] = ["Skin Retraction", pd.NA]
    assert broken_rules(*readings_of(tmp_path, table)).empty
    table.loc[table["image_id"] == "s01_LMLO", "breast_birads"] = "BI-RADS 3"
    broken = broken_rules(*readings_of(tmp_path, table))
    assert broken["rule"].tolist() == ["one label per breast"]
    assert broken["detail"].tolist() == ["BI-RADS 3 and BI-RADS 2"]


def run(tmp_path: Path, *more: str) -> int:
    return cli.main(["double-reading", f"{tmp_path}/a.csv", f"{tmp_path}/b.csv", "--out", f"{tmp_path}/out", *more])


def test_command_writes_tables_that_the_archives_adapter_reads(two, tmp_path, capsys):
    for name in "ab":
        save(two[two["reader"] == name], tmp_path / f"{name}.csv")
    assert run(tmp_path) == 0
    assert "26 exams finished, 0 of them by a third reading; 4 wait for one" in capsys.readouterr().out
    third = tmp_path / "third.json"
    third.write_text(json.dumps(label_studio(reading("c", [1, 3, 6, 9]))))
    assert run(tmp_path, "--arbitration", str(third)) == 0
    assert "30 exams finished, 4 of them by a third reading; 0 wait" in capsys.readouterr().out
    out = tmp_path / "out"
    assert pd.read_csv(out / "arbitration.csv").empty
    assert pd.read_csv(out / "violations.csv").empty
    assert json.loads((out / "agreement.json").read_text())["breast_birads"]["kappa"] > 0.9
    inventory = vindr_mammo.inventory(out)
    assert len(inventory.images) == 4 * EXAMS
    assert len(inventory.findings) == 20
    assert inventory.findings[["xmin", "ymin", "xmax", "ymax"]].notna().all(axis=None)
    assert inventory.images["breast_birads"].value_counts()["BI-RADS 4"] == 20


def test_finished_exams_that_break_a_rule_stop_the_command(two, tmp_path, capsys):
    wrong = two.copy()
    wrong.loc[(wrong["study_id"] == "s12") & (wrong["laterality"] == "L"), "breast_birads"] = "BI-RADS 1"
    for name in "ab":
        save(wrong[wrong["reader"] == name], tmp_path / f"{name}.csv")
    assert run(tmp_path) == 1
    assert "no finding in a BI-RADS 1 breast (['Mass']), exam s12" in capsys.readouterr().err
    out = tmp_path / "out"
    assert not (out / BREASTS).exists()
    assert not (out / FINDINGS).exists()
    assert set(pd.read_csv(out / "violations.csv")["study_id"]) == {"s12"}
    assert run(tmp_path, "--iou", "0") == 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"breast_birads": "BI-RADS 9"}, "'BI-RADS 9' is not one of BI-RADS 0"),
        ({"finding_categories": "['Lump']"}, "Lump.* is not a list of known findings"),
        ({"finding_categories": "Mass; No Finding"}, "not a list of known findings"),
        ({"laterality": "left"}, "laterality 'left' is not L or R"),
        ({"height": "tall"}, "is no number"),
        ({"image_id": "s01_LCC"}, "image s01_LCC is described in two ways"),
        ({"reader": pd.NA}, "reader is empty"),
    ],
    ids=str,
)
def test_files_that_cannot_be_read_say_where(tmp_path, change, message):
    table = reading("a").astype(object)
    table.loc[0, list(change)] = list(change.values())
    with pytest.raises(UserError, match=message):
        readings_of(tmp_path, table)


def test_a_reading_given_twice_and_a_foreign_json(tmp_path):
    table = reading("a")
    changed = table.assign(breast_density="DENSITY A")
    with pytest.raises(UserError, match="reader a gives image s01_LCC two BI-RADS or densities"):
        read_readings([save(table, tmp_path / "a.csv"), save(changed, tmp_path / "b.csv")])
    foreign = tmp_path / "min.json"
    foreign.write_text('[{"image": "a.png", "label": "Mass"}]')
    with pytest.raises(UserError, match="export the project as JSON, not as JSON-MIN"):
        read_readings([foreign])
    with pytest.raises(UserError, match=r"readings are .csv or Label Studio's .json"):
        read_readings([tmp_path / "a.xlsx"])
    assert len(readings_of(tmp_path, table.assign(breast_birads="4")).breasts) == 4 * EXAMS  # a bare grade is enough


def test_boxes_are_paired_for_the_largest_overlap():
    def finding(x, categories="['Mass']"):
        return {
            "finding_categories": categories,
            "finding_birads": "BI-RADS 4",
            "xmin": x,
            "ymin": 0,
            "xmax": x + 10,
            "ymax": 10,
        }

    a, b, far = finding(0), finding(4), finding(100)
    assert pair_findings([a, b], [finding(3), finding(7), far], 0.3) == [(a, finding(3)), (b, finding(7)), (None, far)]
    other = finding(0, "['Asymmetry']")
    assert pair_findings([a], [other, finding(1)], 0.3)[0] == (a, finding(1))  # the same kind before the same place
    assert pair_findings([], [], 0.3) == []
    assert box_iou(finding(0), finding(5)) == pytest.approx(5 / 15)
    assert box_iou(finding(0), {**finding(0), "xmin": pd.NA}) == 0
