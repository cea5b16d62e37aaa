"""Tables and pictures: that they hold what they should, not how they look."""

import io
from typing import Any

import pytest
from PIL import Image
from rich.console import Console
from rich.table import Table

from poise.errors import ConfigError
from poise.load import bin_for, compare_table, draw_timeline, run_table
from poise.workload import JobOutcome, Timeline, summarise, timeline


def outcomes(late: bool) -> list[JobOutcome]:
    fields: dict[str, Any] = {"slo_class": "a", "items": 2, "deadline_s": 0.1, "status": "answered"}
    run = [
        JobOutcome(
            number=i,
            sent_s=i / 10,
            done_s=i / 10 + (0.2 if late and i % 4 == 0 else 0.05),
            modalities={"x": 1, "x+y": 1},
            expected_accuracy=0.9,
            **fields,
        )
        for i in range(40)
    ]
    refused = JobOutcome(
        number=40,
        slo_class="b",
        items=1,
        sent_s=4.0,
        done_s=4.0,
        deadline_s=1.0,
        status="refused",
        reason="full",
    )
    return [*run, refused]


def printed(table: Table) -> str:
    console = Console(file=io.StringIO(), width=140)
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def row(text: str, name: str) -> list[str]:
    line = next(line for line in text.splitlines() if f" {name} " in line)
    return [cell.strip() for cell in line.strip("│").split("│")][1:]


def test_a_run_as_a_table():
    text = printed(run_table(summarise(outcomes(late=True), 5.0)))
    assert row(text, "late") == ["10", "10", "0"]
    assert row(text, "refused") == ["1", "0", "1"]
    assert row(text, "refused: full") == ["1", "0", "1"]
    assert row(text, "modalities x+y") == ["50.0%", "50.0%", "0.0%"]
    assert row(text, "served accuracy") == ["–", "–", "–"]
    assert row(text, "effective accuracy")[0].endswith("(expected)")


def test_runs_side_by_side():
    reports = {"edf": summarise(outcomes(late=True), 5.0), "poise": summarise(outcomes(late=False), 5.0)}
    text = printed(compare_table(reports))
    assert row(text, "late") == ["10", "0"]
    assert row(text, "goodput") == ["6.0 jobs/s", "8.0 jobs/s"]


def test_a_picture_of_one_run_and_of_two(tmp_path):
    runs = {name: timeline(outcomes(late=name == "edf"), 0.5, 5.0) for name in ("edf", "poise")}
    draw_timeline({"edf": runs["edf"]}, tmp_path / "one.png", slo_s={"a": 0.1}, floors={"a": 0.8})
    draw_timeline(runs, tmp_path / "two.png", slo_s={"a": 0.1, "b": 1.0}, title="both")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert one.format == two.format == "PNG"
        assert two.width > one.width
        assert len(one.getcolors(maxcolors=2**24) or []) > 50


def test_a_picture_of_an_empty_run(tmp_path):
    draw_timeline({"none": timeline([], 1.0, 3.0)}, tmp_path / "none.png")
    assert (tmp_path / "none.png").stat().st_size > 0


def test_pictures_that_cannot_be(tmp_path):
    runs: dict[str, Timeline] = {}
    with pytest.raises(ConfigError, match="no runs"):
        draw_timeline(runs, tmp_path / "x.png")
    with pytest.raises(ConfigError, match="cannot write"):
        draw_timeline({"a": timeline([], 1.0)}, tmp_path / "missing" / "x.png")


@pytest.mark.parametrize(("duration_s", "bin_s"), [(1.0, 0.01), (60.0, 1.0), (101.0, 2.0), (1260.0, 20.0)])
def test_bins_are_round(duration_s, bin_s):
    assert bin_for(duration_s) == pytest.approx(bin_s)
