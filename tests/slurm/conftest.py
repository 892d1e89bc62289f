"""The cluster of all tests in this folder; without the packages of SLURM they are skipped."""

import subprocess
from collections.abc import Iterator

import pytest

from tests.helpers.cluster import Cluster, missing


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Two nodes with four CPUs each, a partition `main`, and one `low` that is preempted by it."""
    if reason := missing():
        pytest.skip(f"no SLURM cluster here: {reason}")
    found = Cluster(tmp_path_factory.mktemp("slurm"))
    try:
        try:
            found.start()
        except (AssertionError, OSError, subprocess.SubprocessError) as error:  # a host that names itself oddly, say
            pytest.skip(f"no SLURM cluster comes up here: {error}")
        yield found
    finally:
        found.stop()
