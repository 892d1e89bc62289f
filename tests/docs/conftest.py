"""What takes many minutes is left to those who ask for it."""

import pytest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Without `-m docs_slow` the commands of the documentation are checked and not run, whatever else is chosen."""
    if "docs_slow" in config.option.markexpr:
        return
    slow = [item for item in items if item.get_closest_marker("docs_slow")]
    config.hook.pytest_deselected(items=slow)
    items[:] = [item for item in items if item not in slow]
