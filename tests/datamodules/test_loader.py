"""What the workers of a loader run into, said in one line."""

import os
import signal
from typing import Any

import pytest
from torch.utils.data import Dataset

from datamodules.errors import InputError
from datamodules.loader import Loader


class Failing(Dataset[Any]):
    """Three items; the second raises, or is the end of its worker."""

    def __init__(self, error: Exception | None) -> None:
        self.error = error

    def __len__(self) -> int:
        return 3

    def __getitem__(self, index: int) -> int:
        if index == 1:
            if self.error is None:
                os.kill(os.getpid(), signal.SIGBUS)
            else:
                raise self.error
        return index


@pytest.mark.parametrize("workers", [0, 1])
def test_an_input_error_stays_one_line(workers: int) -> None:
    with pytest.raises(InputError) as found:
        list(Loader(Failing(InputError("a.png: is gone: put it back")), num_workers=workers))
    assert str(found.value) == "a.png: is gone: put it back"


def test_a_dead_worker_is_explained() -> None:
    with pytest.raises(InputError, match=r"^DataLoader worker \(pid.*: the cache of decoded images \(data.cache_dir\)"):
        list(Loader(Failing(None), num_workers=1))


@pytest.mark.parametrize("workers", [0, 1])
def test_other_errors_pass(workers: int) -> None:
    with pytest.raises(RuntimeError, match="shapes differ"):
        list(Loader(Failing(RuntimeError("shapes differ")), num_workers=workers))
