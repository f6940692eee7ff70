"""Correlations of accuracies by class: what noise does to them, and whether intervals hold."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import special

from kd_tune import class_profiles
from kd_tune.predictions import Predictions
from tests.answers import drawn, model

CLASSES, SEEDS = 10, 4


def world(random: np.random.RandomState, likeness: float) -> tuple[np.ndarray, np.ndarray]:
    """`[C]` accuracies by class of a teacher and of a student's expected training, correlated so much in log odds."""
    teacher, own = random.standard_normal((2, CLASSES))
    student = likeness * teacher + np.sqrt(1 - likeness**2) * own
    return special.expit(1.8 + 0.6 * teacher), special.expit(0.6 + 0.6 * student)


def ask(
    random: np.random.RandomState,
    teacher: np.ndarray,
    students: list[np.ndarray],
    images: int,
    luck: np.ndarray | None = None,
) -> Predictions:
    """Trainings whose accuracies by class scatter from seed to seed; any wrong answer is the next class.

    Args:
        random: where chance comes from.
        teacher: `[C]`, its accuracies.
        students: `[C]` each, their expected ones.
        images: of every class.
        luck: `[N]` in [0, 1], common to all networks: how hard an image is among those of its class. None: of its own
            for every answer.
    """
    labels = np.repeat(np.arange(CLASSES), images)

    def answers(rates: np.ndarray) -> np.ndarray:
        own = random.random_sample((len(rates), len(labels)))
        wrong = (own if luck is None else luck) > rates[:, labels]
        return np.asarray((labels + wrong) % CLASSES)

    def trainings(rates: np.ndarray) -> np.ndarray:
        scatter = 0.2 * random.standard_normal((SEEDS, CLASSES))
        return np.asarray(special.expit(special.logit(rates) + scatter))

    models = [model(str(index), answers(trainings(rates)), CLASSES) for index, rates in enumerate(students)]
    names = [str(number) for number in range(CLASSES)]
    return Predictions(labels, names, models, model("teacher", answers(teacher[None]), CLASSES))


def test_what_is_measured_is_pearsons_correlation() -> None:
    answers = drawn(3)
    profiles = [
        [answers.right(one)[:, answers.labels == number].mean() for number in range(4)] for one in answers.everyone
    ]
    expected = [np.corrcoef(profile, profiles[-1])[0, 1] for profile in profiles[:2]]
    assert list(class_profiles.closeness(answers)["observed"]) == pytest.approx(expected)


def test_the_correction_takes_off_what_noise_did_and_the_interval_holds_the_truth() -> None:
    """100 images a class. The interval promises 95 % and gives more: its floor is two standard errors of 200 runs."""
    random, runs = np.random.RandomState(0), 200
    observed, corrected, held = [], [], 0
    for _ in range(runs):
        teacher, student = world(random, 0.9)
        truth = np.corrcoef(teacher, student)[0, 1]
        row = class_profiles.closeness(ask(random, teacher, [student], 100)).iloc[0]
        observed.append(row["observed"] - truth)
        corrected.append(row["correlation"] - truth)
        held += row["low"] <= truth <= row["high"]
    assert np.mean(observed) < -0.08
    assert abs(np.nanmean(corrected)) < 0.03
    assert held / runs > 0.95 - 2 * 0.0154


def test_the_noise_that_is_taken_off_is_the_profiles_own_from_run_to_run() -> None:
    """Of one teacher and one student, asked 300 times: the spread over runs has a standard error of 3 %."""
    random = np.random.RandomState(5)
    teacher, student = world(random, 0.5)
    profiles, noises = [], []
    for _ in range(300):
        answers = ask(random, teacher, [student], 50)
        right = [answers.right(one).astype(float) for one in answers.everyone]
        profiles.append([each.reshape(-1, CLASSES, 50).mean((0, 2)) for each in right])
        members = np.eye(CLASSES)[answers.labels]
        noises.append(class_profiles._noise(right[0], right[1][0], answers.labels, members)[:2])
    centred = np.array(profiles) - np.mean(profiles, axis=2, keepdims=True)
    assert np.mean(noises, axis=0) == pytest.approx(centred.var(0, ddof=1).sum(1), rel=0.08)


def test_models_that_are_equally_close_are_rarely_called_different() -> None:
    random, runs, wrong = np.random.RandomState(1), 200, 0
    for _ in range(runs):
        teacher, student = world(random, 0.7)
        table = class_profiles.closeness_differences(ask(random, teacher, [student, student], 200))
        wrong += bool((table["p_value"] < 0.05).any())
    assert wrong / runs < 0.05 + 2 * 0.0154


def test_a_model_that_is_much_closer_is_called_so() -> None:
    random = np.random.RandomState(2)
    teacher, student = world(random, 0.95)
    row = class_profiles.closeness_differences(ask(random, teacher, [student, student[::-1]], 2000)).iloc[0]
    assert row["difference"] > 0.3
    assert row["p_holm"] < 0.05
    assert row["low"] > 0


def test_a_profile_that_noise_hides_is_unknown() -> None:
    """Every class alike but for chance."""
    random = np.random.RandomState(3)
    answers = ask(random, np.full(CLASSES, 0.9), [np.full(CLASSES, 0.6)], 50)
    row = class_profiles.closeness(answers).iloc[0]
    assert np.isnan(row["correlation"])
    assert (row["low"], row["high"]) == (-1, 1)
    assert class_profiles.closeness_differences(answers).empty


def test_a_teacher_that_is_as_good_on_every_class_has_no_profile() -> None:
    """Two of three images of each of ten classes: the mean of ten times 2 / 3 is not 2 / 3 to the last bit."""
    labels = np.repeat(np.arange(CLASSES), 3)
    even = np.where(np.arange(len(labels)) % 3 == 0, (labels + 1) % CLASSES, labels)
    student = np.where(np.arange(len(labels)) < 10, labels, 0)
    models = [model("student", [student] * 2, CLASSES)]
    answers = Predictions(labels, [str(number) for number in range(CLASSES)], models, model("teacher", [even], CLASSES))
    assert class_profiles.closeness(answers)["observed"].isna().all()


def test_images_that_both_find_hard_do_not_make_profiles_alike() -> None:
    """Of a student and a teacher that would be wrong on the same images, but have nothing else in common."""
    random, runs = np.random.RandomState(4), 200
    errors = []
    for _ in range(runs):
        teacher, student = world(random, 0.0)
        luck = random.random_sample(CLASSES * 100)
        row = class_profiles.closeness(ask(random, teacher, [student], 100, luck)).iloc[0]
        errors.append(row["correlation"] - np.corrcoef(teacher, student)[0, 1])
    assert abs(np.nanmean(errors)) < 0.05


def test_two_classes_have_no_correlation_worth_the_name() -> None:
    assert class_profiles.closeness(drawn(0, num_classes=2)).empty
