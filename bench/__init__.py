"""Benchmarks that print ratios: each figure against a peer measured in the same run, on the same servers."""
