"""Rewrites checkpoints so that they cost less to serve, and proves that they say the same.

`optimize` knows NeMo's cache-aware FastConformer and writes it anew; any other streaming layout gets its state into a
pool inside the graph. `quantize` turns the matrix products of any checkpoint to int8 and leaves the rest. Both compare
the result with the original and refuse one that differs.
"""

from __future__ import annotations

from models.optimize.rewrite import Optimized, Quantized, optimize, quantize

__all__ = ["Optimized", "Quantized", "optimize", "quantize"]
