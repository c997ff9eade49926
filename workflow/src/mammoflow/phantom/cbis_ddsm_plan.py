"""Which patients, lesions, words and splits a synthetic CBIS-DDSM holds, before anything is drawn.

The words are those of the four description tables (Lee et al., Sci Data 4:170177, 2017), and what is rare there is
rare here: patients in both official splits, density 0, subtlety 0, combined words, unread lesions.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import count

import numpy as np

from mammoflow.phantom.anatomy import Woman

MALIGNANT, BENIGN, WITHOUT_CALLBACK = "MALIGNANT", "BENIGN", "BENIGN_WITHOUT_CALLBACK"
TRUTHS = (MALIGNANT, BENIGN, MALIGNANT, WITHOUT_CALLBACK, MALIGNANT, BENIGN, MALIGNANT, BENIGN)
ASSESSMENTS = {
    MALIGNANT: (4, 5, 4, 5, 3, 5, 4, 0),
    BENIGN: (4, 3, 4, 2, 3, 4, 0, 3),
    WITHOUT_CALLBACK: (2, 3, 2, 2, 1),
}
LETTERS = {1: "A", 2: "B", 3: "C", 4: "D"}
RARE_FROM = 12  # patients; smaller sets are kept plain

# (drawn kind, first descriptor, second descriptor); "" is an empty cell. Words go round in this order, so that a set
# of some forty patients shows nearly all of them.
MASS_WORDS = {
    True: (
        ("mass", "IRREGULAR", "SPICULATED"),
        ("mass", "IRREGULAR-ARCHITECTURAL_DISTORTION", "SPICULATED"),
        ("mass", "LOBULATED", "ILL_DEFINED"),
        ("mass", "IRREGULAR", "ILL_DEFINED-SPICULATED"),
        ("architectural_distortion", "ARCHITECTURAL_DISTORTION", ""),
        ("mass", "OVAL", "MICROLOBULATED-SPICULATED"),
        ("mass", "IRREGULAR", "MICROLOBULATED"),
        ("asymmetry", "FOCAL_ASYMMETRIC_DENSITY", "ILL_DEFINED"),
    ),
    False: (
        ("mass", "OVAL", "CIRCUMSCRIBED"),
        ("mass", "ROUND", "OBSCURED"),
        ("mass", "LOBULATED", "CIRCUMSCRIBED-OBSCURED"),
        ("mass", "OVAL-LYMPH_NODE", "CIRCUMSCRIBED"),
        ("asymmetry", "FOCAL_ASYMMETRIC_DENSITY", "ILL_DEFINED"),
        ("mass", "LYMPH_NODE", "CIRCUMSCRIBED"),
        ("asymmetry", "ASYMMETRIC_BREAST_TISSUE", ""),
        ("mass", "IRREGULAR", "ILL_DEFINED"),
        ("architectural_distortion", "ARCHITECTURAL_DISTORTION", ""),
    ),
}
CALC_WORDS = {
    True: (
        ("calcification", "PLEOMORPHIC", "CLUSTERED"),
        ("calcification", "FINE_LINEAR_BRANCHING", "LINEAR"),
        ("calcification", "AMORPHOUS", "CLUSTERED"),
        ("calcification", "PLEOMORPHIC-PLEOMORPHIC", "SEGMENTAL"),
        ("calcification", "PLEOMORPHIC-FINE_LINEAR_BRANCHING", "CLUSTERED-LINEAR"),
        ("calcification", "PUNCTATE", "CLUSTERED"),
    ),
    False: (
        ("calcification", "ROUND_AND_REGULAR", "CLUSTERED"),
        ("calcification", "LUCENT_CENTER", ""),
        ("calcification", "PLEOMORPHIC", "CLUSTERED"),
        ("calcification", "COARSE-ROUND_AND_REGULAR-LUCENT_CENTERED", "REGIONAL"),
        ("calcification", "PUNCTATE", "DIFFUSELY_SCATTERED"),
        ("calcification", "VASCULAR", "LINEAR"),
        ("calcification", "DYSTROPHIC", "CLUSTERED"),
        ("calcification", "SKIN", ""),
        ("calcification", "EGGSHELL", ""),
        ("calcification", "LARGE_RODLIKE", "SEGMENTAL"),
        ("calcification", "MILK_OF_CALCIUM", "CLUSTERED"),
        ("calcification", "LUCENT_CENTERED", "REGIONAL-REGIONAL"),
        ("calcification", "", "CLUSTERED"),
    ),
}


@dataclass(frozen=True)
class Abnormality:
    """One lesion as the tables describe it, and how it is drawn.

    table: Mass or Calc, where its rows stand.  kind: what is drawn (``anatomy.KINDS``).  depth: 0 nipple to 1 chest
    wall, the same in both views.  radius: share of the breast's reach.
    """

    table: str
    kind: str
    words: tuple[str, str]
    pathology: str
    assessment: int
    subtlety: int
    depth: float
    radius: float

    @property
    def malignant(self) -> bool:
        return self.pathology == MALIGNANT

    @property
    def contrast(self) -> float:
        """Subtlety 5 is obvious, 1 subtle; 0 stands for unread."""
        return 0.75 + 0.10 * (self.subtlety or 3)


@dataclass(frozen=True)
class Breast:
    """One breast and how it was exported.

    splits: table -> Training or Test; a breast with two tables has every mammogram exported twice.  density: 1..4, or
    0 where the tables forgot it.  chest_wall: as for ``draw_breast``.  odd_mask: the mask of its first view differs
    in size from the mammogram.  two_series: crop and mask stand in a series each.
    """

    patient: str
    side: str
    views: tuple[str, ...]
    density: int
    woman: Woman
    abnormalities: tuple[Abnormality, ...]
    splits: dict[str, str] = field(default_factory=dict)
    chest_wall: str | None = None
    odd_mask: bool = False
    two_series: bool = False


def plan(patients: int, seed: int) -> list[Breast]:
    """All breasts of a synthetic archive, by patient. Density and breast size are independent of the truth."""
    rng = np.random.default_rng((seed, 1))
    words = {(table, bad): count() for table in ("Mass", "Calc") for bad in (True, False)}
    turns = {(table, split): count(table == "Calc") for table in ("Mass", "Calc") for split in ("Training", "Test")}
    read = {truth: count() for truth in ASSESSMENTS}
    numbers = sorted(rng.choice(np.arange(1, max(2000, 2 * patients)), patients, replace=False))

    def deal() -> Iterator[int]:
        while True:  # shuffled anew each time: kind and split come round as well, and would meet the same densities
            yield from rng.permutation([1, 2, 2, 3, 3, 4]).tolist()

    # Dealt apart to malignant and other women: in a small set chance would make density tell the truth.
    densities = {bad: deal() for bad in (True, False)}

    def lesion(table: str, truth: str) -> Abnormality:
        bad = truth == MALIGNANT
        choices = (MASS_WORDS if table == "Mass" else CALC_WORDS)[bad]
        kind, first, second = choices[next(words[table, bad]) % len(choices)]
        assessment = ASSESSMENTS[truth][next(read[truth]) % len(ASSESSMENTS[truth])]
        subtlety = int(rng.choice([1, 2, 3, 4, 5], p=[0.05, 0.1, 0.2, 0.3, 0.35]))
        depth, radius = float(rng.uniform(0.25, 0.75)), float(rng.uniform(0.10, 0.14))
        return Abnormality(table, kind, (first, second), truth, assessment, subtlety, depth, radius)

    breasts = []
    for k, number in enumerate(numbers):
        table, split = ("Mass", "Calc")[k % 2], "Test" if k // 2 % 4 == 3 else "Training"
        truth = TRUTHS[next(turns[table, split]) % len(TRUTHS)]
        density = next(densities[truth == MALIGNANT])
        woman = Woman.draw(rng, LETTERS[density])
        sides = [str(side) for side in rng.permutation(["LEFT", "RIGHT"])]
        lesions = [lesion(table, truth)]
        if k % 6 == 3:  # a second lesion in the same breast; now and then a benign one beside a malignant one
            lesions.append(lesion(table, BENIGN if k % 12 == 9 or truth != MALIGNANT else truth))
        views = ("CC", "MLO") if rng.random() < 0.85 else (str(rng.choice(["CC", "MLO"])),)
        breast = Breast(f"P_{number:05d}", sides[0], views, density, woman, tuple(lesions), {table: split})
        breasts.append(breast)
        if k % 8 == 5:  # the other breast has a benign lesion of its own
            breasts.append(replace(breast, side=sides[1], abnormalities=(lesion(table, BENIGN),)))
    return _with_rarities(breasts, lesion) if patients >= RARE_FROM else breasts


def _with_rarities(breasts: list[Breast], lesion) -> list[Breast]:
    """Put each of the archive's known oddities on one breast of its kind."""
    found = list(breasts)

    def first(wanted) -> int:
        return next(place for place, breast in enumerate(found) if wanted(breast))

    taken: set[str] = set()

    def change(wanted, **changes) -> None:
        place = first(lambda breast: breast.patient not in taken and wanted(breast))
        taken.add(found[place].patient)
        found[place] = replace(found[place], **changes)

    alone = {breast.patient for breast in found if sum(b.patient == breast.patient for b in found) == 1}
    place = first(lambda b: b.splits == {"Mass": "Training"} and b.patient in alone and b.abnormalities[0].malignant)
    both = found[place]
    taken.add(both.patient)
    found[place] = replace(
        both,
        splits={"Mass": "Training", "Calc": "Test"},
        abnormalities=(*both.abnormalities, lesion("Calc", MALIGNANT)),
    )
    change(lambda b: b.splits == {"Mass": "Test"}, odd_mask=True)
    change(lambda b: b.splits == {"Mass": "Training"}, two_series=True)
    change(lambda b: b.splits == {"Calc": "Test"} and b.patient in alone, density=0)
    change(lambda b: b.splits == {"Calc": "Training"}, chest_wall="left" if _side(found, taken) == "RIGHT" else "right")
    place = first(lambda b: b.splits == {"Mass": "Training"} and b.patient not in taken)
    lesions = found[place].abnormalities
    found[place] = replace(found[place], abnormalities=(replace(lesions[0], subtlety=0), *lesions[1:]))
    return found


def _side(breasts: list[Breast], taken: set[str]) -> str:
    return next(b.side for b in breasts if b.splits == {"Calc": "Training"} and b.patient not in taken)
