"""Floor 4: the open-loop load generator and its report."""

from poise.client.address import Endpoint, parse_url
from poise.load.generator import LoadOptions, LoadRun, run_load, send_load
from poise.load.health import GeneratorHealth
from poise.load.plots import draw_timeline
from poise.load.report import LoadReport, bin_for, load_report
from poise.load.tables import compare_table, generator_table, run_table

__all__ = [
    "Endpoint",
    "GeneratorHealth",
    "LoadOptions",
    "LoadReport",
    "LoadRun",
    "bin_for",
    "compare_table",
    "draw_timeline",
    "generator_table",
    "load_report",
    "parse_url",
    "run_load",
    "run_table",
    "send_load",
]
