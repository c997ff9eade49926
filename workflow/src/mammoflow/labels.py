"""From native truth to labels: the one table of label policies.

Evidence is what the archive says of an image: ``pathology`` where there is one, else the breast's BI-RADS grade, which
is a reader's opinion and therefore marked ``label_source=birads`` (a proxy). The policy (section ``labels`` of the
configuration) turns evidence into

``label_malignant``  1 malignant, 0 not malignant, NA unknown or left out of the binary task
``label_3cat``       ``normal``, ``benign`` or ``recall``, VinDr-Mammo's screening categories (BI-RADS 3 to 6: recall)
``uncertain``        why the label is doubtful or missing; words joined by ``;``
``use``              ``labelled`` or ``unlabelled``; ``excluded`` rows stay excluded

Applying a policy is idempotent, and a second policy replaces the first: the words this module owns are recomputed, an
adapter's own words stay. No pixel depends on it.
"""

from typing import Any

import pandas as pd

from mammoflow import settings

Policy = dict[str, str]

CONTRALATERAL = "contralateral_unlabelled"  # an adapter's word: the archive's table has no row for this breast
# The words that judge() returns; every other word of ``uncertain`` comes from an adapter and is kept.
POLICY_WORDS = ("benign_without_callback", "unproven", "normal", "birads0", "birads3", "birads4a", "ungraded")

_CATEGORY_BY_BIRADS = {"0": "recall", "1": "normal", "2": "benign"}  # every higher grade: recall
# Where the adapter does not say what its pathology rests on. Without callback means: judged on follow-up, no biopsy.
_DEFAULT_SOURCE = {"BENIGN_WITHOUT_CALLBACK": "followup", "NEGATIVE": "followup"}


def default_policy() -> Policy:
    """The ``labels`` section of the configuration with every default."""
    return settings.resolve_section("labels", {})


def judge(pathology: str | None, birads: str | None, policy: Policy) -> tuple[int | None, str | None, str | None]:
    """Label, three-way category and reason word for one piece of evidence.

    ``pathology`` is a word of ``tables.PATHOLOGIES`` or None, ``birads`` one of ``tables.BIRADS`` or None. Pathology
    beats BI-RADS. Returns ``(label_malignant, label_3cat, uncertain)``, each None where it does not apply.
    """
    grade = birads.removeprefix("BI-RADS ") if birads else None
    category = None if grade is None else _CATEGORY_BY_BIRADS.get(grade, "recall")
    match pathology:
        case "MALIGNANT":
            return 1, "recall", None
        case "BENIGN":
            return 0, "benign", None
        case "BENIGN_WITHOUT_CALLBACK":
            return _choice(policy[word := "benign_without_callback"]), "benign", word
        case "UNPROVEN":
            return None, None, "unproven"
        case "NORMAL":
            return _normal(policy)
        case "NEGATIVE":
            return _normal(policy) if category == "normal" else (0, category, None)
        case None:
            return _judge_grade(grade, category, policy)
    raise ValueError(f"pathology {pathology!r} is not in tables.PATHOLOGIES")


def _judge_grade(grade: str | None, category: str | None, policy: Policy):
    match grade:
        case None:
            return None, None, None
        case "0":  # incomplete assessment: says nothing about malignancy
            return None, category, "birads0"
        case "1":
            return _normal(policy)
        case "2":
            return 0, category, None
        case "3":
            return _choice(policy["birads3"]), category, "birads3"
        case "4A":
            return _choice(policy["birads4a"]), category, "birads4a"
        case "4" | "4B" | "4C" | "5" | "6":
            return 1, category, None
    raise ValueError(f"BI-RADS grade {grade!r} is not in tables.BIRADS")


def _normal(policy: Policy):
    label = _choice(policy["normal_as"])
    return label, "normal", "normal" if label is None else None


def _choice(word: str) -> int | None:
    return {"benign": 0, "malignant": 1, "exclude": None}[word]


def apply_policy(images: pd.DataFrame, policy: Policy) -> pd.DataFrame:
    """Fill the label columns and ``use`` of an ``images`` table under ``policy``. Returns a new frame.

    ``label_scope`` is kept. ``label_source`` names the evidence, also where the policy leaves the image out: the
    adapter's word (or ``pathology``/``followup``) for pathology, ``birads`` for a grade, ``none`` without either.
    """
    given_words, contralateral = _adapter_words(images["uncertain"])
    pathology = images["pathology"].astype("string")
    if policy["unlabelled_side"] == "normal":
        pathology = pathology.mask(contralateral & pathology.isna() & images["breast_birads"].isna(), "NORMAL")
    judged = _judge_rows(pathology, images["breast_birads"].astype("string"), policy)
    if policy["normal_as"] == "exclude":
        ungraded = _without_grade(images["dataset"], pathology, images["breast_birads"])
        judged["label_malignant"] = judged["label_malignant"].mask(ungraded)
        judged["uncertain"] = judged["uncertain"].mask(ungraded, "ungraded")

    use = images["use"].astype("string")
    labelled = judged["label_malignant"].map({0: "labelled", 1: "labelled"}).fillna("unlabelled").astype("string")
    return images.assign(
        label_malignant=judged["label_malignant"],
        label_3cat=judged["label_3cat"],
        label_source=_sources(images),
        uncertain=_join_words(given_words, judged["uncertain"]),
        use=use.where((use == "excluded").fillna(False).astype(bool), labelled),
    )


def _without_grade(dataset: pd.Series, pathology: pd.Series, birads: pd.Series) -> pd.Series:
    """Images of which nobody knows whether a benign one would be normal: ungraded ones, malignant or not, of archives
    that call ungraded images NEGATIVE (RSNA).

    Its second site has no grades at all. Left in, all its normals would count as benign; with only they left out, the
    site would hold nothing but cancers. Either way the site would tell the label.
    """
    ungraded = birads.isna() & pathology.isin(["NEGATIVE", "MALIGNANT"])
    silent = dataset[ungraded & (pathology == "NEGATIVE")].unique()
    return (ungraded & dataset.isin(silent)).astype(bool)


def apply_policy_to_findings(findings: pd.DataFrame, policy: Policy) -> pd.DataFrame:
    """Fill ``label_malignant`` of findings from their own pathology, else their own BI-RADS. Returns a new frame.

    The breast's grade is not used: it does not say which of its findings was meant.
    """
    absent = pd.Series(pd.NA, index=findings.index, dtype="string")
    pathology = findings.get("pathology", absent)
    birads = findings.get("finding_birads", absent)
    judged = _judge_rows(pathology.astype("string"), birads.astype("string"), policy)
    return findings.assign(label_malignant=judged["label_malignant"])


def _judge_rows(pathology: pd.Series, birads: pd.Series, policy: Policy) -> pd.DataFrame:
    """judge() once per distinct pair of evidence (at most 77), spread over the rows."""
    evidence = pd.DataFrame({"pathology": pathology, "birads": birads})
    pairs = evidence.drop_duplicates().reset_index(drop=True)
    verdicts = [judge(_none(row.pathology), _none(row.birads), policy) for row in pairs.itertuples()]
    pairs["label_malignant"] = pd.array([verdict[0] for verdict in verdicts], dtype="Int64")
    pairs["label_3cat"] = pd.array([verdict[1] for verdict in verdicts], dtype="string")
    pairs["uncertain"] = pd.array([verdict[2] for verdict in verdicts], dtype="string")
    joined = evidence.merge(pairs, on=["pathology", "birads"], how="left", validate="many_to_one")
    return joined.set_axis(evidence.index)


def _none(value: Any) -> Any:
    return None if pd.isna(value) else value


def _sources(images: pd.DataFrame) -> pd.Series:
    """What the label rests on. A word of an earlier policy run (``birads``, ``none``) does not outlive the evidence."""
    pathology = images["pathology"].astype("string")
    given = images["label_source"].astype("string")
    default = pathology.map(_DEFAULT_SOURCE).astype("string").fillna("pathology")
    by_pathology = given.where(given.isin(["pathology", "followup", "folder"]).astype(bool), default)
    by_grade = images["breast_birads"].astype("string").notna().map({True: "birads", False: "none"}).astype("string")
    return by_pathology.where(pathology.notna(), by_grade)


def _adapter_words(uncertain: pd.Series) -> tuple[pd.Series, pd.Series]:
    """The words of ``uncertain`` that are not ours (NA where none), and whether CONTRALATERAL is among them."""
    uncertain = uncertain.astype("string")
    kept = {
        text: ";".join(word for word in text.split(";") if word not in POLICY_WORDS) or pd.NA
        for text in uncertain.dropna().unique()
    }
    marked = [text for text in kept if CONTRALATERAL in text.split(";")]
    return uncertain.map(kept).astype("string"), uncertain.isin(marked).astype(bool)


def _join_words(first: pd.Series, second: pd.Series) -> pd.Series:
    both = first.notna() & second.notna()
    return first.fillna(second).mask(both, first.str.cat(second, sep=";"))
