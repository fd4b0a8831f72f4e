"""Benchmarks that print the numbers the documents quote."""
