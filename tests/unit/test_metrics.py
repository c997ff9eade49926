"""Every number is checked against scikit-learn, scipy or a plain loop."""

import time

import numpy as np
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm
from sklearn import metrics as reference
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression

from mammoflow import bootstrap, calibration, delong, metrics
from mammoflow.calibration import (
    Identity,
    Isotonic,
    Platt,
    fit_calibration,
    fit_platt,
    fit_temperature,
    logit,
    reliability,
    sigmoid,
)


def sample(n=400, seed=0, ties=False, prevalence=0.3):
    rng = np.random.default_rng(seed)
    labels = (rng.random(n) < prevalence).astype(int)
    scores = sigmoid(rng.normal(size=n) + labels - 1)
    return labels, np.round(scores, 1) if ties else scores


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_ranking_metrics_equal_scikit_learn(seed, ties):
    labels, scores = sample(seed=seed, ties=ties)
    found = {name: value[0] for name, value in metrics.Ranking(labels, scores).metrics().items()}
    assert list(found) == metrics.RANKING
    assert found["auc"] == pytest.approx(reference.roc_auc_score(labels, scores))
    assert found["average_precision"] == pytest.approx(reference.average_precision_score(labels, scores))
    assert found["partial_auc"] == pytest.approx(reference.roc_auc_score(labels, scores, max_fpr=0.1))
    fpr, tpr, _ = reference.roc_curve(labels, scores, drop_intermediate=False)
    for target in metrics.SPECIFICITIES:
        assert found[f"sensitivity_at_specificity_{100 * target:g}"] == pytest.approx(
            tpr[fpr <= 1 - target + 1e-9].max()
        )
    assert found["specificity_at_sensitivity_90"] == pytest.approx(1 - fpr[tpr >= 0.9 - 1e-9].min())


@pytest.mark.parametrize("ties", [False, True])
def test_weights_mean_repeated_units(ties):
    labels, scores = sample(n=60, ties=ties)
    weights = np.random.default_rng(5).integers(0, 4, size=(7, 60)).astype(float)
    threshold = 0.4
    functions = [
        metrics.Ranking(labels, scores).metrics,
        metrics.threshold_metrics(labels, scores, threshold),
    ]
    for function in functions:
        together = function(weights)
        for row, counts in enumerate(weights.astype(int)):
            again, repeated = np.repeat(labels, counts), np.repeat(scores, counts)
            if function is functions[0]:
                expected = metrics.Ranking(again, repeated).metrics()
            else:
                expected = metrics.threshold_metrics(again, repeated, threshold)(None)
            for name, values in together.items():
                assert values[row] == pytest.approx(expected[name][0], nan_ok=True), name


def test_probability_metrics_equal_plain_sums():
    labels, scores = sample(n=300, ties=True)
    found = {name: value[0] for name, value in metrics.probability_metrics(labels, scores)(None).items()}
    assert found["brier"] == pytest.approx(reference.brier_score_loss(labels, scores))
    true, false = (scores * labels).sum(), (scores * (1 - labels)).sum()
    precision, recall = true / (true + false), true / labels.sum()
    assert found["pf1"] == pytest.approx(2 * precision * recall / (precision + recall))
    bins = metrics.calibration_bins(scores)
    by_hand = sum(abs((scores - labels)[bins == index].sum()) for index in range(bins.max() + 1)) / len(labels)
    assert found["ece"] == pytest.approx(by_hand)
    weights = np.random.default_rng(1).integers(0, 3, size=(3, 300)).astype(float)
    weighted = metrics.probability_metrics(labels, scores)(weights)
    for row, counts in enumerate(weights):
        assert weighted["brier"][row] == pytest.approx(np.average((scores - labels) ** 2, weights=counts))
        gaps = [abs((counts * (scores - labels))[bins == index].sum()) for index in range(bins.max() + 1)]
        assert weighted["ece"][row] == pytest.approx(sum(gaps) / counts.sum())


def test_calibration_bins_are_even_and_keep_ties_together():
    scores = np.random.default_rng(0).random(1000)
    assert np.bincount(metrics.calibration_bins(scores)).tolist() == [100] * 10
    tied = np.array([0.2] * 50 + [0.7] * 50)
    assert metrics.calibration_bins(tied).tolist() == [0] * 50 + [1] * 50
    assert len(metrics.calibration_bins(np.array([]))) == 0


def test_threshold_metrics_and_confusion():
    labels = np.array([1, 1, 1, 0, 0, 0, 0, 0])
    scores = np.array([0.9, 0.8, 0.2, 0.85, 0.3, 0.3, 0.1, 0.1])
    cells = metrics.confusion(labels, scores, 0.8)
    assert cells == {"tp": 2, "fp": 1, "fn": 1, "tn": 4}
    found = {name: value[0] for name, value in metrics.threshold_metrics(labels, scores, 0.8)(None).items()}
    assert found == {"sensitivity": 2 / 3, "specificity": 4 / 5, "ppv": 2 / 3, "npv": 4 / 5}


def test_threshold_reaches_the_specificity_and_is_the_smallest_that_does():
    for seed in range(20):
        labels, scores = sample(n=57, seed=seed, ties=seed % 2 == 0)
        threshold = metrics.threshold_at_specificity(labels, scores, 0.9)
        assert (scores[labels == 0] < threshold).mean() >= 0.9
        lower = np.unique(scores[scores < threshold])
        if len(lower):
            assert (scores[labels == 0] < lower[-1]).mean() < 0.9
    # The top score belongs to a negative: nothing may be called.
    assert (
        metrics.confusion(
            [1, 0], np.array([0.3, 0.9]), metrics.threshold_at_specificity([1, 0], np.array([0.3, 0.9]), 0.9)
        )["fp"]
        == 0
    )
    with pytest.raises(ValueError, match="no negative"):
        metrics.threshold_at_specificity([1, 1], np.array([0.3, 0.9]), 0.9)


@pytest.mark.parametrize("labels", [[0, 0, 0], [1, 1, 1]])
def test_one_class_gives_nan_not_a_number(labels):
    for values in metrics.Ranking(labels, np.array([0.1, 0.2, 0.3])).metrics().values():
        assert np.isnan(values).all()


def test_resampling_draws_whole_patients():
    groups = np.array(["a", "a", "b", "c", "c", "c"])
    resampler = bootstrap.Resampler.over(groups, 500, 0)
    assert (resampler.counts.sum(axis=1) == 3).all()
    weights = resampler.counts[:, resampler.codes]
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert resampler.counts.mean() == pytest.approx(1)
    assert (resampler.counts == bootstrap.Resampler.over(groups, 500, 0).counts).all()
    assert (resampler.counts != bootstrap.Resampler.over(groups, 500, 1).counts).any()


def test_interval_agrees_with_delong_where_each_unit_is_a_patient():
    labels, scores = sample(n=600, seed=3)
    resampler = bootstrap.Resampler.over(np.arange(600), 2000, 1)
    summary, _ = bootstrap.summarise(
        metrics.Ranking(labels, scores).metrics, resampler, 0.95, labels.sum(), 600 - labels.sum()
    )
    expected = delong.interval(labels, scores, np.arange(600), 0.95)  # itself tested against its definition
    assert summary["auc"]["low"] == pytest.approx(expected["low"], abs=0.01)
    assert summary["auc"]["high"] == pytest.approx(expected["high"], abs=0.01)


def test_clustering_widens_the_interval():
    labels, scores = sample(n=200, seed=4)
    labels, scores, patients = np.repeat(labels, 4), np.repeat(scores, 4), np.repeat(np.arange(200), 4)
    ranking = metrics.Ranking(labels, scores).metrics
    width = {}
    for name, groups in [("patients", patients), ("units", np.arange(800))]:
        resampler = bootstrap.Resampler.over(groups, 1000, 0)
        number = bootstrap.summarise(ranking, resampler, 0.95, labels.sum(), 800 - labels.sum())[0]["auc"]
        width[name] = number["high"] - number["low"]
    # Four copies carry no more knowledge than one: the naive interval is half as wide.
    assert width["patients"] / width["units"] == pytest.approx(2, rel=0.15)


def test_interval_covers_the_truth_about_as_often_as_it_says():
    """AUC of two normals a standard deviation apart is Phi(1 / sqrt 2); clusters of two share part of their noise."""
    truth, covered, trials = norm.cdf(1 / np.sqrt(2)), 0, 150
    for seed in range(trials):
        rng = np.random.default_rng(seed)
        patients = np.repeat(np.arange(100), 2)
        labels = np.repeat(rng.integers(0, 2, 100), 2)
        scores = np.sqrt(0.7) * np.repeat(rng.normal(size=100), 2) + np.sqrt(0.3) * rng.normal(size=200) + labels
        resampler = bootstrap.Resampler.over(patients, 400, seed)
        number = bootstrap.summarise(metrics.Ranking(labels, scores).metrics, resampler, 0.9, 1000, 1000)[0]["auc"]
        covered += number["low"] <= truth <= number["high"]
    assert 0.82 <= covered / trials <= 0.97


def test_paired_difference_is_narrower_than_unpaired_and_zero_with_itself():
    labels, scores = sample(n=500, seed=6)
    nearly = scores + np.random.default_rng(0).normal(scale=0.01, size=500)
    resampler = bootstrap.Resampler.over(np.arange(500), 1000, 0)
    first, second = (resampler.apply(metrics.Ranking(labels, values).metrics)["auc"] for values in (scores, nearly))
    found = bootstrap.difference(first, second, 0.0, 0.95)
    assert found["high"] - found["low"] < 0.2 * np.ptp(np.quantile(first, [0.025, 0.975]))
    assert bootstrap.difference(first, first, 0.0, 0.95)["low"] is None


def test_tiny_and_degenerate_sets_say_why_there_is_no_number():
    labels, scores = np.array([1, 0, 0, 0]), np.array([0.9, 0.1, 0.2, 0.3])
    resampler = bootstrap.Resampler.over(["a", "b", "c", "d"], 400, 0)
    summary, _ = bootstrap.summarise(metrics.Ranking(labels, scores).metrics, resampler, 0.95, 1, 3)
    assert summary["auc"]["value"] == 1.0
    assert summary["auc"]["low"] is None
    assert "one class" in summary["auc"]["reason"]
    assert summary["auc"]["dropped"] > 80
    assert summary["sensitivity_at_specificity_99.5"]["value"] is None
    assert "200 negative" in summary["sensitivity_at_specificity_99.5"]["reason"]


@pytest.mark.parametrize(("patients", "known"), [(4, False), (5, True)])
def test_fewer_than_five_patients_of_a_class_give_no_interval(patients, known):
    rng = np.random.default_rng(0)
    labels = np.repeat([1, 0], [2 * patients, 60])
    scores = rng.normal(labels)
    groups = np.arange(len(labels)) // 2
    metric = metrics.Ranking(labels, scores).metrics
    resampler = bootstrap.Resampler.over(groups, 400, 0)
    found, _ = bootstrap.summarise(metric, resampler, 0.95, 2 * patients, 60, None, (patients, 30))
    assert found["auc"]["value"] is not None
    assert (found["auc"]["low"] is not None) == known
    assert known or found["auc"]["reason"] == "no interval: 4 patients with a positive unit are too few to resample"
    specificity = metrics.threshold_metrics(labels, scores, 0.5)
    found, _ = bootstrap.summarise(specificity, resampler, 0.95, 2 * patients, 60, None, (patients, 30))
    assert found["specificity"]["low"] is not None  # asks for negatives alone


def test_perfect_proportion_gets_its_exact_bound_by_patients():
    labels, scores = np.array([1] * 20 + [0] * 20), np.array([0.9] * 20 + [0.1] * 20)
    resampler = bootstrap.Resampler.over(np.arange(40) // 2, 200, 0)
    found, _ = bootstrap.summarise(
        metrics.threshold_metrics(labels, scores, 0.5), resampler, 0.95, 20, 20, {"sensitivity": 10}
    )
    assert found["sensitivity"]["value"] == found["sensitivity"]["high"] == 1.0
    assert found["sensitivity"]["low"] == pytest.approx(0.025 ** (1 / 10))
    assert bootstrap.exact_bound(0.0, 10, 0.95)[1] == pytest.approx(1 - 0.025 ** (1 / 10))


def test_two_thousand_replicates_of_five_thousand_units_take_seconds():
    labels, scores = sample(n=5000, prevalence=0.1)
    begin = time.perf_counter()
    resampler = bootstrap.Resampler.over(np.arange(5000) // 2, 2000, 0)
    bootstrap.summarise(metrics.Ranking(labels, scores).metrics, resampler, 0.95, labels.sum(), 5000 - labels.sum())
    assert time.perf_counter() - begin < 20  # 1.4 s on an idle core; the rest is patience with a busy machine


def test_platt_recovers_the_true_slope_and_intercept():
    rng = np.random.default_rng(0)
    log_odds = rng.normal(size=20000)
    labels = (rng.random(20000) < sigmoid(0.5 * log_odds - 1)).astype(int)
    found = fit_platt(labels, sigmoid(log_odds))
    assert found.slope == pytest.approx(0.5, abs=0.05)
    assert found.intercept == pytest.approx(-1, abs=0.05)


def test_platt_never_turns_the_order_round_and_stays_finite():
    scores = np.linspace(0.1, 0.9, 40)
    upside_down = fit_platt((scores < 0.5).astype(int), scores)
    assert upside_down.slope == 0
    separable = fit_platt((scores > 0.5).astype(int), scores)
    assert np.isfinite([separable.slope, separable.intercept]).all()
    assert (np.diff(separable(scores)) > 0).all()
    with pytest.raises(ValueError, match="both classes"):
        fit_platt(np.ones(40), scores)


def test_temperature_is_the_least_log_loss_and_keeps_one_half():
    labels, scores = sample(n=800, seed=2)

    def loss(temperature):
        return reference.log_loss(labels, sigmoid(logit(scores) / temperature))

    best = minimize_scalar(loss, bounds=(0.05, 20), method="bounded", options={"xatol": 1e-8}).x
    found = fit_temperature(labels, scores)
    assert 1 / found.slope == pytest.approx(best, rel=1e-4)
    assert found(np.array([0.5])) == pytest.approx(0.5)
    assert found.method == "temperature"
    separable = fit_temperature((scores > 0.5).astype(int), scores)
    assert separable.slope == calibration.MAX_SLOPE
    with pytest.raises(ValueError, match="both classes"):
        fit_temperature(np.zeros(10), np.linspace(0, 1, 10))


def test_platt_is_logistic_regression_where_the_targets_are_hardly_smoothed():
    labels, scores = sample(n=20000, seed=8)
    expected = LogisticRegression(C=np.inf).fit(logit(scores)[:, None], labels)
    found = fit_platt(labels, scores)
    assert found.slope == pytest.approx(expected.coef_[0, 0], rel=0.01)
    assert found.intercept == pytest.approx(expected.intercept_[0], abs=0.01)


@pytest.mark.parametrize("method", ["temperature", "platt", "isotonic"])
def test_every_method_can_be_chosen_and_improves_an_overconfident_score(method):
    rng = np.random.default_rng(3)
    log_odds = rng.normal(size=4000)
    labels = (rng.random(4000) < sigmoid(log_odds)).astype(int)
    overconfident = sigmoid(3 * log_odds)
    found = fit_calibration(labels[:2000], overconfident[:2000], method)
    assert found.method == method
    before, after = (
        metrics.probability_metrics(labels[2000:], scores)(None)["ece"][0]
        for scores in (overconfident[2000:], found(overconfident[2000:]))
    )
    assert after < before / 2


def test_every_metric_has_a_name():
    assert set(metrics.METRIC_NAMES) == {*metrics.RANKING, *metrics.PROBABILITY, *metrics.THRESHOLDED}


def test_calibration_method_follows_the_amount_of_data():
    labels, scores = sample(n=200)
    assert isinstance(fit_calibration(labels, scores), Platt)
    labels, scores = sample(n=3000)
    found = fit_calibration(labels, scores)
    assert isinstance(found, Isotonic)
    expected = IsotonicRegression(out_of_bounds="clip").fit(scores, labels).predict(scores)
    assert found(scores) == pytest.approx(expected, abs=1e-6)
    none = fit_calibration(np.zeros(30), np.linspace(0, 1, 30))
    assert isinstance(none, Identity)
    assert none.reason == "validation holds one class or none"
    assert none(scores) == pytest.approx(scores)


def test_reliability_points_carry_every_unit():
    labels, scores = sample(n=250)
    points = reliability(labels, scores)
    assert sum(point["n_units"] for point in points) == 250
    assert np.average([p["observed"] for p in points], weights=[p["n_units"] for p in points]) == pytest.approx(
        labels.mean()
    )
    assert sigmoid(logit(scores)) == pytest.approx(scores)
