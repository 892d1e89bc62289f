"""What is checked of a composed config before any data is read, and how configs are composed."""

from pathlib import Path

CONF = Path(__file__).resolve().parents[2] / "conf"
