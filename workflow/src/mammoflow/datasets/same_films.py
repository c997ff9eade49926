"""Archives made of the same films under other ids: no split between them can be proven clean.

Free of numpy and pandas: the configuration is checked against it in every Snakemake job.
"""

from collections.abc import Iterable

from mammoflow.errors import UserError

# Without a public map between them. CBIS-DDSM was cut from DDSM (Lee et al. 2017); mini-MIAS is MIAS at 200 microns.
SAME_FILMS = [("cbis_ddsm", "ddsm"), ("mias", "mias_full")]


def refuse_same_films(datasets: Iterable[str]) -> None:
    """Raise UserError where two of the datasets hold the same patients under different ids."""
    names = set(datasets)
    for first, second in SAME_FILMS:
        if {first, second} <= names:
            raise UserError(
                f"{first} and {second} show the same patients under different ids, so no split of both can be clean: "
                "keep one of them in this cohort"
            )


def refuse_seen_films(who: str, seen: Iterable[str], learner: str, held_out: Iterable[str]) -> None:
    """Raise UserError where ``who`` has seen the films of one of the ``held_out`` datasets under other ids.

    who: the run or list that the images come with, as the message's subject. learner: the run or cohort that holds
    patients of ``held_out`` out.
    """
    seen, held_out = set(seen), set(held_out)
    for pair in SAME_FILMS:
        for one, other in (pair, pair[::-1]):
            if one in seen and other in held_out:
                raise UserError(
                    f"{who} brings in {one}, which shows the same patients as {other} of {learner} under different "
                    "ids, so nobody held out there can be shown to be unseen: "
                    f"leave {one} or {other} out of one of the two"
                )
