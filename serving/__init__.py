"""Engines that run a streaming model over leased slots."""
