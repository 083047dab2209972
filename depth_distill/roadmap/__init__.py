"""From the FP32 teacher to INT8, one idea a row: what each step of the plan gains, measured the way the NPU will."""

from depth_distill.roadmap.plan import Plan, Row, load_plan
from depth_distill.roadmap.report import COLUMNS, cells, float_abs_rel, write_results
from depth_distill.roadmap.run import Roadmap

__all__ = ["COLUMNS", "Plan", "Roadmap", "Row", "cells", "float_abs_rel", "load_plan", "write_results"]
