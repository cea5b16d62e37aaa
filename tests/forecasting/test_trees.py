"""Trees as arrays answer as LightGBM does, and arrays that are no trees are refused."""

from __future__ import annotations

import lightgbm
import msgspec
import numpy as np
import pytest

from poise.forecasting.seasonal_training import PARAMETERS, trees_of
from poise.forecasting.trees import Trees, Walker, check_trees

# x0 <= 2: 1; else x1 <= 5: 10, else 100; then a tree of one leaf.
SMALL = Trees(
    roots=(0, 5),
    feature=(0, -1, 1, -1, -1, -1),
    value=(2.0, 1.0, 5.0, 10.0, 100.0, 0.5),
    right=(2, 0, 2, 0, 0, 0),
    nan_left=(1, 0, 0, 0, 0, 0),
)
NAN = float("nan")


@pytest.mark.parametrize(
    ("row", "total"),
    [((2.0, 9.0), 1.5), ((2.1, 5.0), 10.5), ((2.1, 5.1), 100.5), ((NAN, 9.0), 1.5), ((3.0, NAN), 100.5)],
)
def test_a_walk_by_hand(row: tuple[float, float], total: float) -> None:
    check_trees(SMALL, 2)
    assert Walker((SMALL,)).sums(np.array(row)).tolist() == [total]
    assert Walker((SMALL, SMALL)).sums(np.array(row)).tolist() == [total, total]


@pytest.mark.parametrize("holes", [False, True])
def test_they_answer_as_lightgbm(holes: bool) -> None:
    rng = np.random.default_rng(3)
    columns = rng.normal(size=(4000, 6)).round(2)
    if holes:
        columns[:, 1::2][rng.random((4000, 3)) < 0.2] = np.nan
    target = np.nan_to_num(columns[:, 0]) + np.nan_to_num(columns[:, 1], nan=3.0) ** 2 + rng.normal(size=4000)
    boosters = [
        lightgbm.train(PARAMETERS | {"alpha": alpha}, lightgbm.Dataset(columns, target), 30)
        for alpha in (0.5, 0.9)
    ]
    rows = rng.normal(size=(300, 6)).round(2)
    rows[rng.random((300, 6)) < 0.2] = np.nan  # also where there was none in training
    trees = tuple(trees_of(booster) for booster in boosters)
    for each in trees:
        check_trees(each, 6)
    walker = Walker(trees)
    found = np.array([walker.sums(row) for row in rows])
    wanted = np.stack([booster.predict(rows) for booster in boosters], axis=1)
    assert np.ptp(wanted) > 1
    assert found == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"roots": ()}, "roots"),
        ({"roots": (1, 5)}, "roots"),
        ({"roots": (0, 0)}, "roots"),
        ({"roots": (0, 6)}, "roots"),
        ({"value": (1.0,)}, "as many of each"),
        ({"feature": (2, -1, 1, -1, -1, -1)}, "a feature below 2"),
        ({"feature": (-2, -1, 1, -1, -1, -1)}, "node 0"),
        ({"right": (0, 0, 2, 0, 0, 0)}, "node 0"),
        ({"right": (1, 0, 2, 0, 0, 0)}, "node 0"),
        ({"right": (2, 0, 3, 0, 0, 0)}, "children within its own tree"),
        ({"right": (2, 0, -2, 0, 0, 0)}, "node 2"),
        ({"right": (2, 1, 2, 0, 0, 0)}, "node 1"),
        ({"value": (2.0, float("inf"), 5.0, 10.0, 100.0, 0.5)}, "not finite"),
        ({"feature": (), "value": (), "right": (), "nan_left": ()}, "expected as many"),
    ],
)
def test_arrays_that_are_no_trees(changed: dict[str, tuple[float, ...]], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_trees(msgspec.structs.replace(SMALL, **changed), 2)
