"""DeLong's variance against his definition written as plain loops, and against what repeated sampling shows."""

import numpy as np
import pytest
from scipy.stats import norm
from sklearn.metrics import roc_auc_score

from mammoflow import bootstrap, delong, metrics


def sample(n, seed, ties=False):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < 0.4).astype(int)
    shared = rng.normal(size=n)
    scores = np.stack([labels + shared + rng.normal(size=n), 0.5 * labels + shared + rng.normal(size=n)])
    return labels, np.round(scores) if ties else scores


def covariance_by_definition(labels, scores):
    """DeLong 1988, equations 4 to 6: a kernel over all pairs, no ranks."""
    above, below = [], []
    for row in scores:
        cases, controls = row[labels == 1], row[labels == 0]
        kernel = np.array([[1.0 if x > y else 0.5 if x == y else 0.0 for y in controls] for x in cases])
        above.append(kernel.mean(axis=1))
        below.append(kernel.mean(axis=0))
    return np.cov(above) / len(above[0]) + np.cov(below) / len(below[0])


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1])
def test_covariance_equals_the_definition_where_each_unit_is_a_patient(seed, ties):
    labels, scores = sample(90, seed, ties)
    aucs, covariance = delong.auc_covariance(labels, scores, np.arange(90))
    assert aucs == pytest.approx([roc_auc_score(labels, row) for row in scores])
    assert covariance == pytest.approx(covariance_by_definition(labels, scores))


def test_copies_of_a_patient_carry_no_knowledge():
    labels, scores = sample(120, 3)
    _, single = delong.auc_covariance(labels, scores, np.arange(120))
    _, copied = delong.auc_covariance(np.repeat(labels, 4), np.repeat(scores, 4, axis=1), np.repeat(np.arange(120), 4))
    _, naive = delong.auc_covariance(np.repeat(labels, 4), np.repeat(scores, 4, axis=1), np.arange(480))
    assert copied == pytest.approx(single)
    assert np.diag(naive) == pytest.approx(np.diag(single) / 4, rel=0.05)


def test_clustered_variance_is_what_repeated_sampling_shows():
    """Two breasts per patient with shared noise and one sick breast in some: the AUC over many drawn cohorts."""
    aucs, variances = [], []
    for seed in range(400):
        rng = np.random.default_rng(seed)
        patients = np.repeat(np.arange(80), 2)
        labels = (rng.random(160) < 0.35).astype(int)
        scores = labels + np.repeat(rng.normal(size=80), 2) + 0.6 * rng.normal(size=160)
        found, covariance = delong.auc_covariance(labels, scores, patients)
        aucs.append(found[0])
        variances.append(covariance[0, 0])
    assert np.mean(variances) == pytest.approx(np.var(aucs), rel=0.15)


def test_paired_difference_agrees_with_the_patient_bootstrap():
    labels, scores = sample(600, 5)
    groups = np.arange(600) // 2
    found = delong.difference(labels, *scores, groups, 0.95)
    resampler = bootstrap.Resampler.over(groups, 2000, 0)
    drawn = [resampler.apply(metrics.Ranking(labels, row).metrics)["auc"] for row in scores]
    value = roc_auc_score(labels, scores[0]) - roc_auc_score(labels, scores[1])
    expected = bootstrap.difference(*drawn, value, 0.95)
    assert found["low"] == pytest.approx(expected["low"], abs=0.006)
    assert found["high"] == pytest.approx(expected["high"], abs=0.006)
    half = (found["high"] - found["low"]) / 2
    assert found["p"] == pytest.approx(2 * norm.sf(value / (half / norm.ppf(0.975))))


def test_what_has_no_variance_has_no_interval():
    labels = np.array([0, 0, 1, 1])
    perfect = np.array([0.1, 0.2, 0.8, 0.9])
    assert delong.interval(labels, perfect, np.arange(4), 0.95) is None
    assert delong.difference(labels, perfect, perfect, np.arange(4), 0.95) is None
    _, covariance = delong.auc_covariance(labels, np.array([0.1, 0.8, 0.5, 0.9]), np.array(["a", "b", "c", "c"]))
    assert np.isnan(covariance).all()  # both cancers are one patient's
    with pytest.raises(ValueError, match="both classes"):
        delong.auc_covariance(np.ones(4), perfect, np.arange(4))
