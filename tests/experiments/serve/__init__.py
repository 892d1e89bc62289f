"""Tests of the page, where the extra `serve` is installed."""

import pytest

pytest.importorskip("gradio")
