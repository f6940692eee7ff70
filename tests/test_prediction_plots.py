"""Pictures of answers on test images: what is drawn, not its pixels."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from kd_tune import calibration, class_profiles, confusion_plots, confusions, prediction_plots, predictions
from kd_tune.predictions import Predictions
from tests.answers import drawn

SIZES = [(2, 3, 2), (4, 10, 3), (6, 10, 2), (2, 30, 2)]  # models, classes, seeds


def answers(num_models: int, num_classes: int, num_seeds: int) -> Predictions:
    return drawn(0, num_models, num_seeds, num_classes, images_a_class=6)


def every_figure(found: Predictions) -> dict[str, Figure]:
    by_class, closeness = predictions.accuracy_by_class(found), class_profiles.closeness(found)
    differences = confusions.confusion_differences(found, "model 0")
    return {
        "accuracy_by_model": prediction_plots.accuracy_by_model(predictions.accuracy(found)),
        "accuracy_by_class": prediction_plots.accuracy_by_class(by_class),
        "class_profiles": prediction_plots.class_profiles(by_class, closeness),
        "closeness": prediction_plots.closeness(closeness),
        "inside_groups": prediction_plots.inside_groups(confusions.inside_groups(found)),
        "agreement": prediction_plots.agreement(predictions.agreement(found)),
        "reliability": prediction_plots.reliability(calibration.reliability(found), calibration.calibration(found)),
        "agreement_differences": prediction_plots.differences(
            predictions.agreement_differences(found)[lambda rows: rows["of"] == predictions.TEACHER_WRONG],
            f"agreement with the teacher,\n{predictions.TEACHER_WRONG}",
            percent=True,
        ),
        "paired_tests": prediction_plots.differences(predictions.paired_tests(found), "accuracy", percent=True),
        "confusion_matrices": confusion_plots.confusion_matrices(confusions.confusions(found)),
        "confusion_differences": confusion_plots.confusion_differences(differences),
    }


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def ticks(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


@pytest.mark.parametrize("size", SIZES)
def test_every_picture_can_be_drawn_for_few_and_many_models_and_classes(size: tuple[int, int, int]) -> None:
    for name, figure in every_figure(answers(*size)).items():
        figure.draw_without_rendering()  # layouts that do not fit warn, and warnings are errors
        width, height = figure.get_size_inches()
        assert width < 25, name
        assert height < 25, name
        drawn_on = figure.get_tightbbox()
        assert min(drawn_on.x0, drawn_on.y0, width - drawn_on.x1, height - drawn_on.y1) > -0.01, f"{name} is cut off"


def test_accuracies_stand_beside_their_dots_and_the_teacher_is_a_line() -> None:
    table = predictions.accuracy(answers(4, 10, 3))
    (axes,) = prediction_plots.accuracy_by_model(table).axes
    assert ticks(axes) == ["model 0", "model 1", "model 2", "model 3"]
    assert texts(axes) == [f"{value:.2%}" for value in table["accuracy"][:4]]
    teacher = table["accuracy"].iloc[4]
    assert any(set(line.get_xdata()) == {teacher} for line in axes.lines)  # type: ignore[arg-type]
    assert f"{teacher:.2%}" in axes.get_title()
    dots = [line for line in axes.lines if line.get_marker() == prediction_plots.MARKERS[0]]
    assert [list(dot.get_xdata()) for dot in dots] == [[table["accuracy"][0]]]  # type: ignore[arg-type]


def test_every_class_has_a_dot_a_model_and_a_line_for_the_teacher() -> None:
    (axes,) = prediction_plots.accuracy_by_class(predictions.accuracy_by_class(answers(4, 10, 3))).axes
    assert [label.get_text() for label in axes.get_xticklabels()] == [f"class {number}" for number in range(10)]
    assert [len(container[0].get_xdata()) for container in axes.containers] == [10] * 4
    places = [float(place) for container in axes.containers for place in container[0].get_xdata()]
    assert len(set(places)) == 40  # none hides another
    assert [list(line.get_xdata()) for line in axes.lines if line.get_linestyle() == ":"] == [[4.5, 4.5]]  # groups


def test_long_names_of_classes_are_tilted() -> None:
    found = answers(2, 4, 2)
    long = replace(found, class_names=["golden retriever", *found.class_names[1:]], groups=None)
    for one, angle in ((replace(found, groups=None), 0), (long, 45)):
        (axes,) = prediction_plots.accuracy_by_class(predictions.accuracy_by_class(one)).axes
        assert {label.get_rotation() for label in axes.get_xticklabels()} == {angle}


def test_of_many_classes_those_that_differ_most_are_shown() -> None:
    table = predictions.accuracy_by_class(answers(2, 30, 2))
    students = table[~table["teacher"]].pivot(index="class", columns="model", values="accuracy")
    gaps = (students["model 0"] - students["model 1"]).abs()
    (axes,) = prediction_plots.accuracy_by_class(table).axes
    shown = [label.get_text() for label in axes.get_xticklabels()]
    assert len(shown) == prediction_plots.MOST_CLASSES
    assert gaps[shown].min() >= gaps.drop(shown).max()
    assert "20 of 30 classes" in axes.get_title()


def test_a_confusion_matrix_shows_counts_and_sorts_classes_by_group() -> None:
    found = answers(2, 10, 2)
    names = list(found.class_names)
    found = replace(found, groups={"odd": names[1::2], "even": names[::2]})
    table = confusions.confusions(found)
    figure = confusion_plots.confusion_matrices(table)
    panels = figure.axes[:3]
    assert [axes.get_title() for axes in panels] == ["model 0", "model 1", "teacher"]
    assert ticks(panels[0]) == names[1::2] + names[::2]
    counts = table["count"][table["model"] == "model 0"]
    assert texts(panels[0]) == [f"{count:.0f}" for count in counts if count >= 0.5]
    assert len(panels[0].lines) == 2  # between the groups
    shares = np.asarray(panels[0].images[0].get_array())
    assert shares.sum(1) == pytest.approx(np.ones(10))


def test_large_matrices_have_neither_numbers_nor_names() -> None:
    for figure in (
        confusion_plots.confusion_matrices(confusions.confusions(answers(2, 30, 2))),
        confusion_plots.confusion_differences(confusions.confusion_differences(answers(2, 30, 2), "model 0")),
    ):
        assert texts(figure.axes[0]) == []
        assert ticks(figure.axes[0]) == []


def test_differences_of_confusions_are_centred_at_none_and_real_ones_are_framed() -> None:
    table = confusions.confusion_differences(answers(3, 10, 2), "model 1")
    table.loc[0, "p_holm"] = 0.01
    figure = confusion_plots.confusion_differences(table)
    first, second = figure.axes[:2]
    assert [axes.get_title() for axes in (first, second)] == ["model 0 - model 1", "model 2 - model 1"]
    for axes in (first, second):
        low, high = axes.images[0].get_clim()
        assert low == -high == -table["difference"].abs().max()  # type: ignore[operator]
    assert len(first.patches) == 1 + int((table["p_holm"][1:100] < 0.05).sum())
    assert len(second.patches) == int((table["p_holm"][100:] < 0.05).sum())


def test_profiles_stand_over_the_teachers_from_its_worst_class_to_its_best() -> None:
    found = answers(4, 10, 3)
    table = predictions.accuracy_by_class(found)
    figure = prediction_plots.class_profiles(table, class_profiles.closeness(found))
    assert len(figure.axes) == 4
    for axes in figure.axes:
        teacher, student = (np.asarray(line.get_ydata()) for line in axes.lines)
        assert (np.diff(teacher) >= 0).all()
        assert [student.mean(), student.std(ddof=1)] == pytest.approx([0, 1])
        assert axes.get_title().split("\n")[1].startswith("corrected correlation ")


def test_a_correlation_that_noise_hides_is_called_unknown() -> None:
    found = answers(2, 4, 2)
    table = class_profiles.closeness(found).assign(correlation=np.nan, low=-1.0, high=1.0)
    figure = prediction_plots.class_profiles(predictions.accuracy_by_class(found), table)
    assert "unknown" in figure.axes[0].get_title()
    assert texts(prediction_plots.closeness(table).axes[0]) == ["unknown", "unknown"]


def test_shares_inside_groups_stand_beside_those_of_even_wrong_answers() -> None:
    table = confusions.inside_groups(answers(2, 10, 3))
    figure = prediction_plots.inside_groups(table)
    assert [axes.get_title() for axes in figure.axes] == [confusions.EVERY_GROUP, "first", "second"]
    for axes, (_, rows) in zip(figure.axes, table.groupby("group", sort=False), strict=True):
        bars = np.asarray(axes.collections[0].get_offsets())
        assert bars[:, 0] == pytest.approx(rows["evenly"].to_numpy())
        assert texts(axes) == [f"{share:.0%}" for share in rows["share"]]


def test_agreement_has_a_panel_for_the_images_that_the_teacher_gets_wrong() -> None:
    table = predictions.agreement(answers(2, 10, 3))
    left, right = prediction_plots.agreement(table).axes
    assert left.get_title() == "all images (n = 60)"
    assert right.get_title() == f"images that the teacher gets wrong (n = {table['images'].iloc[-1]})"


def test_reliability_leaves_out_points_of_few_answers() -> None:
    found = answers(2, 4, 3)
    bins, errors = calibration.reliability(found), calibration.calibration(found)
    bins.loc[0, "answers"] = 0.001
    figure = prediction_plots.reliability(bins, errors)
    left, right = figure.axes
    mine = bins[bins["model"] == "model 0"]
    assert len(left.lines[0].get_xdata()) == (mine["answers"] >= 0.01).sum() < len(mine)  # type: ignore[arg-type]
    assert len(right.lines[0].get_xdata()) == len(mine)  # type: ignore[arg-type]
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [f"{row.model}: ECE {row.ece:.1%}" for row in errors.itertuples()]


def test_pairs_that_differ_beyond_chance_are_filled() -> None:
    table = pd.DataFrame(
        {
            "first": ["a", "a"],
            "second": ["b", "c"],
            "difference": [0.1, 0.01],
            "low": [0.05, -0.02],
            "high": [0.15, 0.04],
            "p_holm": [0.0001, 0.4],
        }
    )
    (axes,) = prediction_plots.differences(table, "accuracy", percent=True).axes
    assert ticks(axes) == ["a - b  (p < 0.001)", "a - c  (p 0.400)"]
    dots = [line for line in axes.lines if line.get_marker() == "o"]
    assert [dot.get_markerfacecolor() == "white" for dot in dots] == [False, True]


def test_a_model_looks_the_same_in_every_picture_and_no_two_alike() -> None:
    looks = [prediction_plots._look(index) for index in range(12)]
    assert len(set(looks)) == 12
    figures = every_figure(answers(3, 10, 2))
    for name in ("accuracy_by_model", "closeness", "agreement"):
        shown = {line.get_color() for line in figures[name].axes[0].lines}
        assert {colour for colour, _ in looks[:3]} <= shown, name
