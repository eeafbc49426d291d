"""Scores that compare the features of drawn images with those of real ones, by torch-fidelity's functions, seeded."""

from __future__ import annotations

from torch import Tensor

from unifluid.evaluation.frechet import Normal, frechet_distance
from unifluid.evaluation.scores import Score
from unifluid.evaluation.statistics import Statistics

SEED = 2020  # torch-fidelity's own
NEIGHBOURS = 3  # of the manifolds (Kynkäänniemi et al., 2019)


def image_scores(
    drawn: Tensor,
    real: Statistics,
    distance: str,
    with_kid: bool = False,
    with_precision_recall: bool = False,
    logits: Tensor | None = None,
) -> dict[str, Score]:
    """All that is asked for of drawn features (n, F): the Fréchet distance, called `distance`; `kid`, `precision` and
    `recall`, for which `real` must hold features; and `inception_score`, where logits (n, 1008) are given."""
    fewest = min(len(drawn), len(real.features)) if with_precision_recall else NEIGHBOURS + 1
    if fewest <= NEIGHBOURS:
        raise ValueError(f"precision and recall need at least {NEIGHBOURS + 1} images on both sides, got {fewest}")
    scores = {distance: Score(frechet_distance(Normal.of(drawn), real.normal), len(drawn))}
    if with_kid:
        scores["kid"] = kid(drawn, real.features)
    if with_precision_recall:
        scores |= precision_recall(drawn, real.features)
    if logits is not None:
        scores["inception_score"] = inception_score(logits)
    return scores


def kid(drawn: Tensor, real: Tensor, subsets: int = 100, subset_size: int = 1000) -> Score:
    """Kernel Inception distance (Bińkowski et al., 2018, arXiv 1801.01401): mean of an unbiased estimate over random
    subsets of features (n, F); subsets are as large as the smaller set at most. Below 0 where sets are alike."""
    from torch_fidelity.metric_kid import KEY_METRIC_KID_MEAN, kid_features_to_metric

    size = min(subset_size, len(drawn), len(real))
    found = kid_features_to_metric(drawn, real, kid_subsets=subsets, kid_subset_size=size, rng_seed=SEED, verbose=False)
    return Score(float(found[KEY_METRIC_KID_MEAN]), len(drawn))


def precision_recall(drawn: Tensor, real: Tensor) -> dict[str, Score]:
    """Improved precision and recall (Kynkäänniemi et al., 2019, arXiv 1904.06991): the share of drawn images within
    the manifold of the real ones (n, F), and of real ones within that of the drawn."""
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    found = prc_features_to_metric(drawn, real, prc_neighborhood=NEIGHBOURS, verbose=False)
    return {
        "precision": Score(float(found[KEY_METRIC_PRECISION]), len(drawn)),
        "recall": Score(float(found[KEY_METRIC_RECALL]), len(real)),
    }


def inception_score(logits: Tensor, splits: int = 10) -> Score:
    """Inception score (Salimans et al., 2016, arXiv 1606.03498) of logits without bias (n, 1008): mean over splits."""
    from torch_fidelity.metric_isc import KEY_METRIC_ISC_MEAN, isc_features_to_metric

    found = isc_features_to_metric(logits, splits=min(splits, len(logits)), shuffle=True, rng_seed=SEED)
    return Score(float(found[KEY_METRIC_ISC_MEAN]), len(logits))
