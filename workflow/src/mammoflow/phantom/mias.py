"""Synthetic mini-MIAS: ``Info.txt``, ``Licence.txt`` and two films a woman, ``mdb001.pgm``, ``mdb002.pgm``, ...

Follows all-mias.tar.gz (Suckling et al. 1994): 8-bit P5 of 1024x1024 with a 17-byte header, one MLO film per breast,
film centred in black; odd numbers are right breasts, even numbers left breasts of the same woman; ``Info.txt`` gives y
from the BOTTOM edge; NORM rows end with a blank; some films have two rows, one of them benign and malignant; some
lesions stand without coordinates, spread calcifications with ``*NOTE 3*``. Tissue F, G, D is the woman's density.
"""

from dataclasses import dataclass
from itertools import cycle
from pathlib import Path

import numpy as np

from mammoflow.errors import UserError
from mammoflow.files import replacing, write_text
from mammoflow.phantom.anatomy import Lesion, Woman, draw_breast, place_lesion

SIDE = 1024
FILM_GAMMA = 0.85  # the archive's films are brighter in the middle greys than CBIS-DDSM's
MOST_PATIENTS = 499  # mdb998 is the last even number with three digits
TISSUE = {"F": "A", "G": "B", "D": "D"}
# Pairs of films in the real archive, per 161 women: N+N 53, M+N 52, B+N 49, B+M 6, B+B 1.
PAIRS = ("MN", "BN", "NN", "MN", "BN", "NN", "MN", "BN", "NN", "BM")
CLASSES = {
    ("mass", False): ("CIRC", "CIRC", "MISC"),
    ("mass", True): ("SPIC", "SPIC", "MISC"),
    ("calcification", False): ("CALC",),
    ("calcification", True): ("CALC",),
    ("architectural_distortion", False): ("ARCH",),
    ("architectural_distortion", True): ("ARCH",),
    ("asymmetry", False): ("ASYM",),
    ("asymmetry", True): ("ASYM",),
}
KIND_SHARES = {"mass": 0.48, "calcification": 0.24, "architectural_distortion": 0.16, "asymmetry": 0.12}


@dataclass
class Film:
    """One film before it is drawn. truth: N, B or M.  quirk: empty, two_rows, no_place, note3 or both."""

    number: int
    woman: Woman
    tissue: str
    truth: str
    quirk: str = ""

    @property
    def name(self) -> str:
        return f"mdb{self.number:03d}"

    @property
    def laterality(self) -> str:
        return "R" if self.number % 2 else "L"


def write(root: Path, patients: int, seed: int, size: str = "small") -> None:
    """Write the archive into ``root``. ``size`` changes nothing: every film of this archive is 1024 pixels square.

    Raises UserError for more women than three-digit film numbers allow.
    """
    if patients > MOST_PATIENTS:
        raise UserError(f"mini-MIAS numbers its films with three digits: ask for at most {MOST_PATIENTS} patients")
    films = plan(patients, seed)
    rows = []
    for film in films:
        pixels, own_rows = draw_film(film, np.random.default_rng((seed, 2, film.number)))
        with replacing(Path(root) / f"{film.name}.pgm") as handle:
            handle.write(b"P5\n%d %d\n255\n" % (SIDE, SIDE) + pixels.tobytes())
        rows += own_rows
    write_text(Path(root) / "Info.txt", INFO + "".join(f"{row}\n" for row in rows))
    write_text(Path(root) / "Licence.txt", LICENCE)


def plan(patients: int, seed: int) -> list[Film]:
    """Both films of every woman with truth and quirks; no pixels. Density is independent of the truth."""
    rng = np.random.default_rng((seed, 1))
    pairs = [PAIRS[k % len(PAIRS)] for k in range(patients)]
    rng.shuffle(pairs)
    # Dealt apart to women with cancer and others: in a small set chance would make density tell the truth.
    tissues = {bad: cycle(rng.permutation(list(TISSUE)).tolist()) for bad in (True, False)}
    films = []
    for patient, pair in enumerate(pairs):
        tissue = next(tissues["M" in pair])
        woman = Woman.draw(rng, TISSUE[tissue])
        truths = rng.permutation(list(pair))
        films += [Film(2 * patient + 1 + k, woman, tissue, str(truth)) for k, truth in enumerate(truths)]
    # A quirk costs a lesion its place or its plain label, so only sets with enough plain ones get them.
    for truth, quirks in (("M", ("note3", "both", "two_rows")), ("B", ("no_place", "two_rows"))):
        abnormal = [film for film in films if film.truth == truth]
        for film, quirk in zip(abnormal[1::2], quirks, strict=False):
            film.quirk = quirk
    return films


def draw_film(film: Film, rng: np.random.Generator) -> tuple[np.ndarray, list[str]]:
    """(uint8 (1024, 1024), rows of ``Info.txt``) of one film."""
    width = int(rng.integers(520, 760))
    shape, side = (SIDE, width), film.laterality
    lesions = _lesions(film, shape, rng)
    marker = f"{side} {'MLO' if rng.random() < 0.3 else 'ML'}"
    style = "plate" if rng.random() < 0.7 else "letters"
    view = draw_breast(
        shape, side, "MLO", film.woman.density, lesions, rng, woman=film.woman, marker=marker, marker_style=style
    )
    sheet = _film_base(shape, side, rng)
    sheet = np.where(view.pixels > 0, np.maximum(view.pixels**FILM_GAMMA * 255, sheet), sheet)
    left = (SIDE - width) // 2
    pixels = np.zeros((SIDE, SIDE), dtype=np.uint8)
    pixels[:, left : left + width] = np.clip(sheet + 0.5, 0, 255).astype(np.uint8)
    return pixels, _rows(film, lesions, left, rng)


def _lesions(film: Film, shape: tuple[int, int], rng: np.random.Generator) -> list[Lesion]:
    """Lesions in pixels of the film sheet; the last one of a film with ``both`` is the benign one."""
    if film.truth == "N":
        return []
    malignant = film.truth == "M"
    if film.quirk == "note3":
        kinds = [("calcification", True)] * 5
    elif film.quirk == "no_place":
        kinds = [("mass", False)]
    else:
        kind = str(rng.choice(list(KIND_SHARES), p=list(KIND_SHARES.values())))
        kinds = [(kind, malignant)] * (2 if film.quirk == "two_rows" else 1)
        kinds += [("mass", False)] * (film.quirk == "both")
    lesions: list[Lesion] = []
    for kind, bad in kinds:
        x, y, radius = place_lesion(rng, shape, film.laterality, "MLO", woman=film.woman, avoid=lesions)
        lesions.append(Lesion(kind, bad, x, y, radius, contrast=float(rng.uniform(0.75, 1.2))))
    return lesions


def _rows(film: Film, lesions: list[Lesion], left: int, rng: np.random.Generator) -> list[str]:
    head = f"{film.name} {film.tissue}"
    if not lesions:
        return [f"{head} NORM "]
    if film.quirk == "note3":
        return [f"{head} CALC M *NOTE 3*"]
    if film.quirk == "no_place":
        return [f"{head} CIRC B"]
    rows = []
    for lesion in lesions:
        word = str(rng.choice(CLASSES[lesion.kind, lesion.malignant]))
        place = f"{round(lesion.x + left)} {SIDE - round(lesion.y)} {round(lesion.radius)}"
        rows.append(f"{head} {word} {'M' if lesion.malignant else 'B'} {place}")
    return rows


def _film_base(shape: tuple[int, int], laterality: str, rng: np.random.Generator) -> np.ndarray:
    """Unexposed film, float32 0..255: a faint fog with grain, scratches, and a bright edge where light came past it."""
    height, width = shape
    fog = np.full(shape, rng.uniform(3, 10), dtype=np.float32)
    fog += rng.standard_normal(shape, dtype=np.float32)
    for _ in range(int(rng.integers(0, 4))):
        row, start = int(rng.integers(0, 30)), int(rng.integers(0, width // 2))
        fog[row, start : start + int(rng.integers(20, width // 2))] = rng.uniform(60, 200)
    if rng.random() < 0.25:  # a wedge along the outer edge: the film lay at a slant
        reach = np.linspace(*rng.uniform(0, 0.025, 2), height)[:, None] * width
        columns = np.arange(width)[None, :]
        outer = columns if laterality == "R" else width - 1 - columns
        fog[outer < reach] = rng.uniform(225, 250)
    return np.clip(fog, 0, 255)


INFO = """\
                 SYNTHETIC FILMS IN THE FORMAT OF THE
                  MIAS MiniMammographic Database

These films are DRAWN BY A PROGRAM (mammoflow phantom). They show no
patient, have no clinical meaning and are no part of the MIAS database.
They lie on disk as the real films do, so that software can be tried
and taught without them.

FORMAT

Every film is 1024 pixels x 1024 pixels, 8 bits, and is centred in the
matrix. Odd numbers are right breasts, even numbers left breasts; a pair
belongs to one (imaginary) woman.

1st column: reference number of the film.

2nd column: background tissue: F fatty, G fatty-glandular,
            D dense-glandular

3rd column: kind of abnormality: CALC calcification, CIRC circumscribed
            mass, SPIC spiculated mass, MISC other mass, ARCH
            architectural distortion, ASYM asymmetry, NORM none

4th column: severity: B benign, M malignant

5th,6th columns: x,y image coordinates of the centre, in pixels, with
            the origin in the BOTTOM-LEFT corner

7th column: radius, in pixels, of a circle around the abnormality

NOTE 3: calcifications spread over the whole film have no place.

=================================================================

"""

LICENCE = """\
SYNTHETIC FILMS

These files were drawn by a program (mammoflow phantom). They hold no data
of any person and nothing taken from the MIAS database; the licence of that
database does not apply to them. Use them as you like, but never as evidence
of clinical performance.
"""
