"""The subscriber files that tests use."""

from pathlib import Path

ROOT = Path(__file__).parents[1]
MAPPING = ROOT / "examples" / "telco-subscribers.mapping.yaml"
PUBLISHED = ROOT.parent / "shared" / "data" / "telco-subscribers.csv"
"""A published data set of 7,043 telecom subscribers, which stands beside the repository and not in it."""
