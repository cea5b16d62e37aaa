"""Floor 1: traces, arrival processes, jobs and what became of them, with random generators passed in."""

from poise.workload.arrivals import draw_arrivals
from poise.workload.bootstrap import bootstrap_interval, bootstrap_mean
from poise.workload.jobs import JobDraw, Streams, draw_jobs, planned_duration_s, streams
from poise.workload.outcomes import FloorScope, JobOutcome, Status, attained
from poise.workload.summary import (
    ClassFigures,
    ClassTimeline,
    Figures,
    Interval,
    LatencyFigures,
    RunReport,
    Timeline,
    latency_figures,
    summarise,
    timeline,
)
from poise.workload.traces import parse_trace, slice_trace

__all__ = [
    "ClassFigures",
    "ClassTimeline",
    "Figures",
    "FloorScope",
    "Interval",
    "JobDraw",
    "JobOutcome",
    "LatencyFigures",
    "RunReport",
    "Status",
    "Streams",
    "Timeline",
    "attained",
    "bootstrap_interval",
    "bootstrap_mean",
    "draw_arrivals",
    "draw_jobs",
    "latency_figures",
    "parse_trace",
    "planned_duration_s",
    "slice_trace",
    "streams",
    "summarise",
    "timeline",
]
