"""Passes over float graphs: fold, equalize, bias correction, adaptive rounding and others."""
