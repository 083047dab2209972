"""From the FP32 teacher to INT8 with one idea per row: the gain of each step, measured after the tool chain's PTQ."""

from depth_distill.roadmap.plan import Plan, RoadmapRow, load_plan
from depth_distill.roadmap.report import COLUMNS, cells, columns, float_abs_rel, rows, write_results
from depth_distill.roadmap.run import Roadmap

__all__ = [
    "COLUMNS",
    "Plan",
    "Roadmap",
    "RoadmapRow",
    "cells",
    "columns",
    "float_abs_rel",
    "load_plan",
    "rows",
    "write_results",
]
