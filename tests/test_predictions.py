"""Tables of answers on test images: values worked by hand, and what holds for any answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as some

from kd_tune import calibration, class_profiles, confusions, influence, predictions, statistics
from kd_tune.errors import ConfigError
from kd_tune.predictions import Model, Predictions
from tests.answers import by_hand, drawn, model

SEEDS = some.integers(0, 10_000)
TABLES: dict[str, Callable[[Predictions], pd.DataFrame]] = {
    "accuracy": predictions.accuracy,
    "accuracy_by_class": predictions.accuracy_by_class,
    "agreement": predictions.agreement,
    "agreement_differences": predictions.agreement_differences,
    "paired_tests": predictions.paired_tests,
    "confusions": confusions.confusions,
    "confusion_differences": lambda found: confusions.confusion_differences(found, found.models[0].name),
    "inside_groups": confusions.inside_groups,
    "closeness": class_profiles.closeness,
    "closeness_differences": class_profiles.closeness_differences,
    "calibration": calibration.calibration,
    "reliability": calibration.reliability,
}
SHARES = ("accuracy", "share", "agreement", "evenly", "ece", "confidence", "answers", "p_value", "p_holm", "mcnemar_p")


def only(table: pd.DataFrame, **where: object) -> pd.Series:
    """The one row in which columns have these values."""
    for column, value in where.items():
        table = table[table[column] == value]
    assert len(table) == 1
    return table.iloc[0]


def test_accuracy_is_a_mean_over_seeds_and_the_teacher_stands_last() -> None:
    table = predictions.accuracy(by_hand())
    assert list(table["model"]) == ["student", "perfect", "teacher"]
    assert list(table["teacher"]) == [False, False, True]
    assert list(table["accuracy"]) == pytest.approx([9 / 12, 1, 4 / 6])
    assert list(table["seeds"]) == [2, 2, 1]


def test_accuracy_by_class_by_hand() -> None:
    table = predictions.accuracy_by_class(by_hand())
    assert list(table["accuracy"]) == pytest.approx([0.75] * 3 + [1] * 3 + [0.5, 1, 0.5])
    assert set(table["images"]) == {2}
    assert list(table["group"][:3]) == ["insects", "insects", "cattle"]


def test_classes_of_a_group_stand_side_by_side() -> None:
    groups = {"first and last": ["cow", "ant"], "other": ["bee"]}
    answers = replace(by_hand(), groups=groups)
    for table, column in ((predictions.accuracy_by_class(answers), "class"), (confusions.confusions(answers), "true")):
        assert list(dict.fromkeys(table[column])) == ["cow", "ant", "bee"]


@given(SEEDS)
def test_intervals_of_accuracies_are_those_of_a_confirmation(seed: int) -> None:
    answers = drawn(seed)
    right = answers.right(answers.models[0])
    expected = statistics.accuracy(right)
    row = only(predictions.accuracy(answers), model="model 0")
    assert (row["accuracy"], row["low"], row["high"]) == pytest.approx((expected.value, expected.low, expected.high))
    mine = statistics.accuracy(right[:, answers.labels == 2])
    row = only(predictions.accuracy_by_class(answers), model="model 0", **{"class": "class 2"})
    assert (row["accuracy"], row["low"], row["high"]) == pytest.approx((mine.value, mine.low, mine.high))


def test_a_single_network_has_the_interval_of_its_images_on_the_scale_of_log_odds() -> None:
    right = np.arange(400)[None] < 300
    found = influence.share(right, np.ones_like(right))
    # Wald's interval of log odds, with the sample variance's N - 1.
    half = 1.959964 / np.sqrt(399 * 0.75 * 0.25)
    expected = [1 / (1 + np.exp(-(np.log(3) + sign * half))) for sign in (-1, 1)]
    assert (found.low, found.high) == pytest.approx(expected, rel=1e-6)


def test_the_interval_of_a_share_of_wrong_answers_holds_the_truth() -> None:
    """Images differ in how often they are missed and how often inside the group, seeds in both. Bounds: 800 runs."""
    random, runs, held = np.random.RandomState(0), 800, 0
    shift = np.array([-1.0, 0.0, 1.0]) * 0.3  # seeds are drawn from these three
    missed, inside = random.beta(2, 3, 4000), random.beta(3, 2, 4000)
    odds_of = [1 / (1 + np.exp(-(np.log(missed / (1 - missed)) + one))) for one in shift]
    truth = sum((rate * inside).sum() for rate in odds_of) / sum(rate.sum() for rate in odds_of)
    for _ in range(runs):
        images, seeds = random.randint(0, 4000, 300), random.randint(0, 3, 5)
        wrong = random.random_sample((5, 300)) < np.array(odds_of)[seeds][:, images]
        part = wrong & (random.random_sample((5, 300)) < inside[images])
        found = influence.share(part, wrong)
        held += found.low <= truth <= found.high
    assert 0.93 - 0.015 < held / runs < 0.975 + 0.01


def test_a_share_without_answers_is_unknown_and_one_without_exceptions_still_leaves_doubt() -> None:
    wrong = np.zeros((2, 50), bool)
    assert np.isnan(influence.share(wrong, wrong).value)
    wrong[:, :20] = True
    assert influence.share(wrong, wrong) == influence.Interval(1.0, pytest.approx(0.025 ** (1 / 20)), 1.0)
    assert influence.share(~wrong & wrong, wrong) == influence.Interval(0.0, 0.0, pytest.approx(1 - 0.025 ** (1 / 20)))


def test_confusions_are_mean_counts_by_hand() -> None:
    table = confusions.confusions(by_hand())
    cells = table[table["model"] == "student"].set_index(["true", "predicted"])
    found = cells["count"][cells["count"] > 0].to_dict()
    right = {("ant", "ant"): 1.5, ("bee", "bee"): 1.5, ("cow", "cow"): 1.5}
    assert found == right | {("ant", "bee"): 0.5, ("bee", "cow"): 0.5, ("cow", "ant"): 0.5}
    assert cells["share"]["ant", "bee"] == 0.25


def test_labels_of_one_byte_do_not_overflow_with_many_classes() -> None:
    labels = np.repeat(np.arange(40), 2).astype(np.uint8)
    right = model("right", [labels.tolist()] * 2, num_classes=40)
    answers = Predictions(labels, [str(number) for number in range(40)], [right])
    assert (confusions.confusion_counts(answers, right) == 2 * np.eye(40)).all()


def test_confusion_differences_are_from_the_model_that_was_named() -> None:
    table = confusions.confusion_differences(by_hand(), "student")
    assert set(table["model"]) == {"perfect"}
    assert only(table, true="ant", predicted="ant")["difference"] == pytest.approx(0.5)
    assert only(table, true="ant", predicted="bee")["difference"] == pytest.approx(-0.5)
    assert only(table, true="ant", predicted="cow")["p_value"] == 1.0


def test_a_cell_that_differs_beyond_doubt_is_found_among_all_cells() -> None:
    """Of 200 cows, one model takes 40 more for bees; of the others the same."""
    labels = np.repeat(np.arange(3), 200)
    plain, fooled = labels.copy(), labels.copy()
    plain[400:420], fooled[400:460] = 1, 1
    models = [model("plain", [plain] * 3), model("fooled", [fooled] * 3)]
    table = confusions.confusion_differences(Predictions(labels, ("ant", "bee", "cow"), models), "plain")
    found = table[table["p_holm"] < 0.05]
    assert found[["true", "predicted"]].to_numpy().tolist() == [["cow", "bee"], ["cow", "cow"]]
    assert list(found["difference"]) == pytest.approx([40, -40])


def test_inside_groups_by_hand() -> None:
    """Ant for bee stays inside; bee for cow and cow for ant do not. A lone class has no inside, and no row."""
    table = confusions.inside_groups(by_hand())
    every = only(table, model="student", group=confusions.EVERY_GROUP)
    assert (every["wrong"], every["share"], every["evenly"]) == pytest.approx((1.5, 1 / 3, 1 / 3))
    insects = only(table, model="student", group="insects")
    assert (insects["wrong"], insects["share"], insects["evenly"]) == pytest.approx((1.0, 0.5, 0.5))
    assert set(table["group"]) == {confusions.EVERY_GROUP, "insects"}
    assert np.isnan(only(table, model="perfect", group="insects")["share"])


def test_wrong_answers_that_fall_evenly_stay_inside_as_often_as_expected() -> None:
    """Every wrong answer once: each of six classes has two others in its group of three, out of five."""
    labels = np.repeat(np.arange(6), 5)
    others = [[number for number in range(6) if number != label] for label in range(6)]
    even = model("even", [np.concatenate(others)] * 2, num_classes=6)
    groups = {"low": ["0", "1", "2"], "high": ["3", "4", "5"]}
    table = confusions.inside_groups(Predictions(labels, list("012345"), [even], groups=groups))
    assert list(table["share"]) == pytest.approx(list(table["evenly"])) == [0.4] * 3


def test_agreement_by_hand() -> None:
    table = predictions.agreement(by_hand())
    every = only(table, model="student", of=predictions.EVERY_IMAGE)
    assert (every["agreement"], every["images"]) == (pytest.approx(8 / 12), 6)
    wrong = only(table, model="student", of=predictions.TEACHER_WRONG)
    assert (wrong["agreement"], wrong["images"]) == (pytest.approx(1 / 4), 2)


def test_agreement_differences_by_hand() -> None:
    """The student agrees 8 times of 12, the perfect one 4 of 6; where the teacher is wrong, 1 of 4 and never."""
    table = predictions.agreement_differences(by_hand())
    assert list(table["of"]) == [predictions.EVERY_IMAGE, predictions.TEACHER_WRONG]
    assert list(table["difference"]) == pytest.approx([8 / 12 - 4 / 6, 1 / 4], abs=1e-15)
    assert set(table["first"] + table["second"]) == {"studentperfect"}


def test_a_model_that_copies_its_teachers_mistakes_agrees_more_beyond_doubt() -> None:
    answers = drawn(0, images_a_class=60)
    assert answers.teacher
    random = np.random.RandomState(0)
    copied = answers.models[0].logits.copy()
    taken = random.random_sample(copied.shape[:2]) < 0.4
    copied[taken] = np.broadcast_to(answers.teacher.logits, copied.shape)[taken]
    models = [replace(answers.models[0], name="copy", logits=copied), answers.models[1]]
    table = predictions.agreement_differences(replace(answers, models=models))
    assert (table["difference"] > 0.05).all()
    assert (table["p_holm"] < 0.01).all()
    assert list(table["p_holm"]) == pytest.approx(statistics.holm(list(table["p_value"])))


def test_differences_in_agreement_of_equal_models_are_called_real_in_at_most_one_run_of_twenty() -> None:
    """Both learnt alike from one teacher: the same chance to agree on each image. Two families; three errors of 400."""
    found = 0
    for seed in range(400):
        random = np.random.RandomState(seed)
        labels, teacher = np.repeat([0, 1], 60), random.randint(0, 2, 120)
        chance = random.beta(2, 1, 120)
        drawn_answers = [np.where(random.random_sample((3, 120)) < chance, teacher, 1 - teacher) for _ in range(2)]
        models = [model(name, answers, 2) for name, answers in zip(("one", "other"), drawn_answers, strict=True)]
        answers = Predictions(labels, ("ant", "bee"), models, model("teacher", [teacher], 2))
        found += (predictions.agreement_differences(answers)["p_holm"] < 0.05).any()
    assert found / 400 < 0.05 + 3 * (0.05 * 0.95 / 400) ** 0.5


def test_paired_tests_ask_configurations_and_networks() -> None:
    row = predictions.paired_tests(by_hand()).iloc[0]
    assert (row["first"], row["second"]) == ("student", "perfect")
    assert row["difference"] == pytest.approx(-0.25)
    assert (row["first_only"], row["second_only"], row["mcnemar_p"]) == (0, 2, pytest.approx(0.5))


def test_mcnemar_asks_the_network_with_the_median_validation_accuracy() -> None:
    answers = by_hand()
    other = replace(answers.models[0], median=1)
    row = predictions.paired_tests(replace(answers, models=[other, answers.models[1]])).iloc[0]
    assert (row["first_only"], row["second_only"]) == (0, 1)


@pytest.mark.parametrize(("counts", "expected"), [((0, 0), 1.0), ((5, 5), 1.0), ((9, 1), 22 / 1024), ((0, 2), 0.5)])
def test_mcnemar_by_hand(counts: tuple[int, int], expected: float) -> None:
    assert predictions.mcnemar(*counts) == pytest.approx(expected)


def test_p_values_are_adjusted_for_all_pairs() -> None:
    table = predictions.paired_tests(drawn(1, num_models=4))
    assert len(table) == 6
    for column, adjusted in (("p_value", "p_holm"), ("mcnemar_p", "mcnemar_p_holm")):
        assert list(table[adjusted]) == pytest.approx(statistics.holm(list(table[column])))


@given(SEEDS)
def test_confusions_of_a_model_add_up_to_all_images(seed: int) -> None:
    answers = drawn(seed)
    table = confusions.confusions(answers)
    assert list(table.groupby("model")["count"].sum()) == pytest.approx([len(answers.labels)] * 3)
    assert list(table.groupby(["model", "true"])["share"].sum()) == pytest.approx([1] * 12)


@pytest.mark.parametrize("name", TABLES)
@given(SEEDS)
def test_shares_are_shares_and_intervals_hold_their_figure(name: str, seed: int) -> None:
    table = TABLES[name](drawn(seed))
    assume(not table.empty)  # where noise hides the profiles
    for column in set(SHARES) & set(table.columns):
        assert table[column].dropna().between(0, 1).all(), column
    figures = {"accuracy", "share", "agreement", "ece", "difference", "correlation"} & set(table.columns)
    if "low" in table:
        figure = table["ece" if "ece" in figures else figures.pop()]
        known = figure.notna()
        assert (table["low"] <= figure)[known].all()
        assert (figure <= table["high"])[known].all()


@pytest.mark.parametrize("name", TABLES)
@given(SEEDS)
def test_the_order_of_the_images_changes_nothing(name: str, seed: int) -> None:
    answers = drawn(seed)
    order = np.random.RandomState(seed).permutation(len(answers.labels))

    def shuffled(one: Model) -> Model:
        return replace(one, logits=one.logits[:, order])

    assert answers.teacher
    models = [shuffled(one) for one in answers.models]
    other = replace(answers, labels=answers.labels[order], models=models, teacher=shuffled(answers.teacher))
    pd.testing.assert_frame_equal(TABLES[name](answers), TABLES[name](other), rtol=1e-6, atol=1e-9)


@given(SEEDS)
def test_identical_models_are_never_called_different(seed: int) -> None:
    answers = drawn(seed)
    twins = replace(answers, models=[replace(answers.models[0], name=name) for name in ("one", "two")])
    pairs = predictions.paired_tests(twins).iloc[0]
    assert (pairs["difference"], pairs["p_holm"], pairs["mcnemar_p_holm"]) == (0, 1, 1)
    assert set(predictions.agreement_differences(twins)["p_holm"]) == {1.0}
    cells = confusions.confusion_differences(twins, "one")
    assert set(cells["p_holm"]) == {1.0}
    profiles = class_profiles.closeness_differences(twins)
    assume(not profiles.empty)
    assert (profiles["p_holm"] == 1).all()


@pytest.mark.parametrize(
    "name", ["inside_groups", "agreement", "agreement_differences", "closeness", "closeness_differences"]
)
def test_tables_that_need_groups_or_a_teacher_are_empty_without(name: str) -> None:
    assert TABLES[name](replace(drawn(0), teacher=None, groups=None)).empty


def test_one_model_has_nothing_to_be_compared_with() -> None:
    answers = drawn(0, num_models=1)
    for name in ("paired_tests", "agreement_differences", "confusion_differences", "closeness_differences"):
        assert TABLES[name](answers).empty


def test_groups_that_are_no_partition_are_refused_with_every_problem() -> None:
    groups = {"insects": ["ant", "bee", "moth"], "others": ["bee"]}
    with pytest.raises(ConfigError) as caught:
        replace(by_hand(), groups=groups)
    for problem in ("unknown class 'moth'", "'bee' is named 2 times", "'cow' is in no group"):
        assert problem in str(caught.value)


@pytest.mark.parametrize("name", ["accuracy_by_class", "confusions", "confusion_differences", "closeness"])
def test_a_class_with_one_image_has_no_figures_by_class(name: str) -> None:
    answers = replace(by_hand(), labels=np.array([0, 0, 0, 1, 1, 2]))
    with pytest.raises(ConfigError, match="class 'cow' has 1 test images"):
        TABLES[name](answers)


@pytest.mark.parametrize("name", ["accuracy", "agreement", "paired_tests", "inside_groups", "calibration"])
def test_a_class_with_one_image_leaves_the_figures_of_all_images(name: str) -> None:
    answers = replace(by_hand(), labels=np.array([0, 0, 0, 1, 1, 2]))
    assert not TABLES[name](answers).empty


@pytest.mark.parametrize(
    ("models", "match"),
    [
        ([model("a", [[0] * 6] * 2)] * 2, "the same name"),
        ([model("a", [[0] * 5] * 2)], "expected"),
        ([model("a", [[0] * 6])], "at least 2 seeds"),
    ],
)
def test_answers_that_do_not_fit_are_refused(models: list[Model], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        Predictions(np.array([0, 0, 1, 1, 2, 2]), ("ant", "bee", "cow"), models)
