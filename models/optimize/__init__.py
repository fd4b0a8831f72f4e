"""Rewrites checkpoints so that they cost less to serve, and proves that they say the same.

`optimize` knows NeMo's cache-aware FastConformer and icefall's Zipformer2 and writes them anew; of any other streaming
layout the state goes into a pool inside the graph. `quantize` turns the matrix products of any checkpoint to int8 and
leaves the rest. Both compare the result with the original and refuse one that differs.
"""

from __future__ import annotations

from models.optimize.rewrite import Optimized, Quantized, optimize, quantize

__all__ = ["Optimized", "Quantized", "optimize", "quantize"]
