"""Drawn mammograms, and the synthetic mini-MIAS made of them."""

import hashlib
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from sklearn.metrics import roc_auc_score

from mammoflow import phantom
from mammoflow.datasets import mias as mias_adapter
from mammoflow.errors import UserError
from mammoflow.phantom import mias
from mammoflow.phantom.anatomy import KINDS, Lesion, Woman, draw_age, draw_breast, outline, place_lesion

SHAPE = (450, 300)
ROW = re.compile(
    r"(mdb\d{3}) ([FGD]) (?:(NORM) |(CALC|CIRC|SPIC|MISC|ARCH|ASYM) ([BM])(?: (\d+) (\d+) (\d+)| \*NOTE 3\*)?)"
)


def digests(root: Path) -> dict[str, str]:
    """Relative path -> sha256 of every file."""
    return {
        path.relative_to(root).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def archive(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("phantom") / "mias"
    phantom.write("mias", root, patients=20, seed=3)
    return root


@pytest.fixture(scope="module")
def rows(archive) -> list[tuple]:
    lines = (archive / "Info.txt").read_text(encoding="ascii").splitlines()
    return [ROW.fullmatch(line).groups() for line in lines if re.match(r"mdb\d{3} ", line)]


# The drawing


@pytest.mark.parametrize("view", ["CC", "MLO"])
@pytest.mark.parametrize("laterality", ["L", "R"])
def test_a_breast_hangs_on_its_own_side_and_the_background_is_black(laterality, view):
    drawn = draw_breast(SHAPE, laterality, view, 0.5, [], np.random.default_rng(0))
    assert drawn.pixels.dtype == np.float32
    assert drawn.pixels.shape == SHAPE
    assert drawn.pixels.min() == 0
    assert drawn.pixels.max() <= 1
    assert (drawn.pixels[~drawn.breast_mask] == 0).all()
    assert (drawn.pixels[drawn.breast_mask] > 0).mean() > 0.98
    wall, other = (0, -1) if laterality == "L" else (-1, 0)
    assert drawn.breast_mask[:, wall].mean() > 0.6
    assert not drawn.breast_mask[:, other].any()


def test_the_chest_wall_can_be_put_on_the_other_side():
    drawn = draw_breast(SHAPE, "R", "CC", 0.5, [], np.random.default_rng(0), chest_wall="left")
    mirrored = draw_breast(SHAPE, "R", "CC", 0.5, [], np.random.default_rng(0))
    assert (drawn.breast_mask == mirrored.breast_mask[:, ::-1]).all()


def test_the_same_arguments_draw_the_same_pixels():
    woman = Woman.draw(np.random.default_rng(1), "C")
    twice = [draw_breast(SHAPE, "L", "MLO", "C", [], np.random.default_rng(5), woman=woman) for _ in range(2)]
    assert (twice[0].pixels == twice[1].pixels).all()
    other = draw_breast(SHAPE, "L", "MLO", "C", [], np.random.default_rng(5), woman=replace(woman, seed=woman.seed + 1))
    assert (twice[0].pixels != other.pixels).any()


def test_denser_breasts_are_brighter_and_the_muscle_is_brighter_than_fat():
    means = [
        draw_breast(SHAPE, "L", "CC", letter, [], np.random.default_rng(0)).pixels.mean()
        for letter in ("A", "B", "C", "D")
    ]
    assert means == sorted(means)
    assert means[-1] > 1.15 * means[0]
    oblique = draw_breast(SHAPE, "L", "MLO", "A", [], np.random.default_rng(0)).pixels
    assert oblique[5:40, 5:20].mean() > 1.3 * np.median(oblique[oblique > 0])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("malignant", [False, True])
def test_a_lesion_brightens_the_place_it_is_put(kind, malignant):
    rng = np.random.default_rng(7)
    woman = Woman.draw(rng, "A")
    for laterality in ("L", "R"):
        x, y, radius = place_lesion(rng, SHAPE, laterality, "MLO", woman=woman)
        lesion = Lesion(kind, malignant, x, y, radius)
        bare, full = (
            draw_breast(SHAPE, laterality, "MLO", 0.1, lesions, np.random.default_rng(2), woman=woman)
            for lesions in ([], [lesion])
        )
        (mask,) = full.lesion_masks
        assert mask.any()
        assert not (mask & ~full.breast_mask).any()
        rows, columns = np.nonzero(mask)
        assert np.hypot(rows - y, columns - x).max() <= 1.5 * radius
        change = (full.pixels - bare.pixels)[mask]
        assert np.percentile(change, 98) > 0.05
        # A benign radial scar has a dark centre between its bright lines: the sum may go either way.
        if malignant or kind != "architectural_distortion":
            assert change.mean() > 0.01


def test_lesions_lie_inside_the_breast_off_the_muscle_and_apart():
    for seed in range(40):
        rng = np.random.default_rng(seed)
        woman, side, view = Woman.draw(rng), "LR"[seed % 2], ("CC", "MLO")[seed // 2 % 2]
        shape_of_breast = outline(SHAPE, side, view, woman)
        placed: list[Lesion] = []
        for _ in range(2):
            x, y, radius = place_lesion(rng, SHAPE, side, view, woman=woman, avoid=placed)
            placed.append(Lesion("mass", True, x, y, radius))
            inward = x if side == "L" else SHAPE[1] - 1 - x
            angles = np.linspace(0, 2 * np.pi, 60)
            rim_x, rim_y = inward + radius * np.cos(angles), y + radius * np.sin(angles)
            assert rim_x.min() >= 0
            assert rim_y.min() >= 0
            assert rim_y.max() < SHAPE[0]
            assert (rim_x <= shape_of_breast.edge[rim_y.astype(int)] + 1).all()
            if view == "MLO":
                top, wall = shape_of_breast.muscle
                assert (rim_x / top + rim_y / wall > 0.98).all()
        first, second = placed
        assert np.hypot(first.x - second.x, first.y - second.y) > first.radius


def test_one_lesion_lies_equally_deep_in_both_views():
    woman, rng = Woman(), np.random.default_rng(0)
    for view in ("CC", "MLO"):
        reach, nipple_y = outline(SHAPE, "L", view, woman).nipple
        x, y, _ = place_lesion(rng, SHAPE, "L", view, woman=woman, depth=0.4, radius=12)
        assert np.hypot(x - reach, y - nipple_y) / reach == pytest.approx(0.4, abs=0.2)


def test_age_informs_a_little():
    rng = np.random.default_rng(0)
    ages = [(bad, draw_age(rng, bad)) for bad in [True, False] * 400]
    assert 0.55 < roc_auc_score([bad for bad, _ in ages], [age for _, age in ages]) < 0.70


def test_unknown_views_are_refused():
    with pytest.raises(ValueError, match="XCCL"):
        outline(SHAPE, "L", "XCCL", Woman())


# The command


def test_the_command_writes_once_and_leaves_the_same_phantom_alone(tmp_path):
    root = tmp_path / "mias"
    first = phantom.write("mias", root, patients=1, seed=5)
    before = {path: path.stat().st_mtime_ns for path in root.iterdir()}
    assert phantom.write("mias", root, patients=1, seed=5) == first
    assert before == {path: path.stat().st_mtime_ns for path in root.iterdir()}
    assert [path.name for path in tmp_path.iterdir()] == ["mias"]
    with pytest.raises(UserError, match="already holds something else"):
        phantom.write("mias", root, patients=2, seed=5)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"dataset": "mnist"}, "unknown dataset"),
        ({"patients": 0}, "at least one patient"),
        ({"size": "huge"}, "size small or full"),
        ({"layout": "idc"}, "no layout"),
        ({"patients": 500}, "at most 499"),
    ],
)
def test_what_cannot_be_drawn_is_refused_and_nothing_is_left(tmp_path, change, words):
    with pytest.raises(UserError, match=words):
        phantom.write(**{"dataset": "mias", "root": tmp_path / "new", "patients": 1, "seed": 0} | change)
    assert list(tmp_path.iterdir()) == []


# mini-MIAS


def test_films_are_the_archive_s_pgm(archive):
    films = sorted(archive.glob("*.pgm"))
    assert [film.stem for film in films] == [f"mdb{number:03d}" for number in range(1, 41)]
    for film in films[:4]:
        content = film.read_bytes()
        assert content[:17] == b"P5\n1024 1024\n255\n"
        assert len(content) == 1_048_593
        pixels = np.frombuffer(content[17:], np.uint8).reshape(1024, 1024)
        assert not pixels[:, :100].any()
        assert not pixels[:, -100:].any()
        columns = np.flatnonzero((pixels > 60).mean(axis=0) > 0.4)
        middle = columns.mean()
        assert (middle > 512) == (int(film.stem[3:]) % 2 == 1)  # chest wall right on odd films, which are right breasts


def test_rows_follow_the_format_and_hold_every_oddity(archive, rows):
    text = (archive / "Info.txt").read_text(encoding="ascii")
    assert "DRAWN BY A PROGRAM" in text
    assert "SYNTHETIC" in (archive / "Licence.txt").read_text(encoding="ascii")
    assert re.search(r"^mdb\d{3} [FGD] NORM $", text, re.M)
    assert re.search(r"^mdb\d{3} [FGD] CALC M \*NOTE 3\*$", text, re.M)
    assert re.search(r"^mdb\d{3} [FGD] CIRC B$", text, re.M)
    severities: dict[str, list[str]] = {}
    for name, _, _, _, severity, *_ in rows:
        severities.setdefault(name, []).append(severity or "N")
    assert len(severities) == 40
    assert ["M", "B"] in severities.values()
    assert ["B", "B"] in severities.values()
    assert ["M", "M"] in severities.values()
    tissue = {name: letter for name, letter, *_ in rows}
    assert all(tissue[f"mdb{n:03d}"] == tissue[f"mdb{n + 1:03d}"] for n in range(1, 40, 2))
    worst = [max(found, key="NBM".index) for found in severities.values()]
    assert [worst.count(word) for word in "MBN"] == [8, 8, 24]


def test_circles_count_from_the_bottom(archive, rows):
    """With y turned over, every circle lies in the breast, and the circles of calcifications hold bright specks."""
    places = [(name, kind, int(x), 1024 - int(y), int(r)) for name, _, _, kind, _, x, y, r in rows if x]
    assert len(places) >= 12
    specks = []
    for name, kind, x, y, radius in places:
        pixels = np.frombuffer((archive / f"{name}.pgm").read_bytes()[17:], np.uint8).reshape(1024, 1024)
        patch = pixels[y - radius : y + radius, x - radius : x + radius].astype(float)
        assert patch.shape == (2 * radius, 2 * radius)
        assert (patch > 30).mean() > 0.95
        if kind == "CALC":
            mirrored = pixels[1024 - y - radius : 1024 - y + radius, x - radius : x + radius].astype(float)
            specks.append([np.percentile(p - gaussian_filter(p, 8), 99.5) for p in (patch, mirrored)])
    assert specks
    assert all(here > 1.5 * there for here, there in specks)


def test_the_adapter_reads_the_phantom(archive, rows):
    inventory = mias_adapter.inventory(archive)
    assert len(inventory.images) == 40
    assert inventory.images["path"].notna().all()
    assert len(inventory.findings) == sum(row[2] is None for row in rows)
    assert mias_adapter.detect(archive).images_found == 40


def test_the_same_seed_writes_the_same_bytes(tmp_path):
    for name, seed in (("one", 4), ("two", 4), ("other", 5)):
        phantom.write("mias", tmp_path / name, patients=2, seed=seed)
    one, two, other = (digests(tmp_path / name) for name in ("one", "two", "other"))
    assert one == two
    assert one["mdb001.pgm"] != other["mdb001.pgm"]
    assert one["Licence.txt"] == other["Licence.txt"]


def test_whole_films_do_not_give_the_truth_away(archive, rows):
    malignant = {name for name, *_, severity, x, y, r in rows if severity == "M"}
    films = sorted(archive.glob("*.pgm"))
    means = [np.frombuffer(film.read_bytes()[17:], np.uint8).mean() for film in films]
    assert 0.35 < roc_auc_score([film.stem in malignant for film in films], means) < 0.65


def test_density_is_dealt_alike_to_women_with_and_without_cancer():
    films = mias.plan(patients=120, seed=0)
    sick = {(film.number + 1) // 2 for film in films if film.truth == "M"}
    for letter in "FGD":
        shares = [
            np.mean([film.tissue == letter for film in films if ((film.number + 1) // 2 in sick) == side])
            for side in (True, False)
        ]
        assert shares[0] == pytest.approx(shares[1], abs=0.12)
