"""Passes that replace operators which an NPU does not take, exactly where that is possible: see docs/surgery.md."""
