"""Photographs one after the other: while one is restored, the next is read and the one before is written."""

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from tqdm import tqdm

from datamodules.errors import InputError, UserError
from datamodules.io.write_photo import NotWritten

if TYPE_CHECKING:
    from experiments.restore.paths import Item
    from experiments.restore.restore_file import Work

log = logging.getLogger(__name__)

AHEAD = 2**28  # bytes of photographs and results that are in memory together; a larger one is there alone
T = TypeVar("T")
Notes = tuple[list[str], list[str]]


def restore_all(
    items: Sequence["Item"],
    work_on: Callable[["Item"], "Work"],
    said: set[str],
    show: bool,
    tell: Callable[[str], object],
) -> int:
    """Restore photographs behind a bar, or else with a line for each; returns how many could not be restored.

    Of each it is told in their order what became of it. Whatever ends this, the file that is being written is finished.

    Args:
        work_on: what is to be done for a photograph.
        said: notes that are not repeated; what a photograph loses is.
        show: the bar.
        tell: gets the lines about photographs.

    Raises:
        NotWritten, ConfigError: of the first photograph that has met one: the others would too.
    """
    failed = 0
    leaving = deque[tuple[int, "Work", Future[Notes]]]()  # restored, and perhaps not yet written

    def settle(most: int) -> None:
        """Tell of those that are finished, and wait until only so many are still to be written."""
        nonlocal failed
        while leaving and (len(leaving) > most or leaving[0][2].done()):
            number, work, written = leaving.popleft()
            try:
                lost, further = written.result()
            except NotWritten:  # nor could the next one be
                raise
            except InputError as error:
                failed += 1
                tell(str(error))
                continue
            if bar.disable:
                source, target = work.item.source, work.item.target
                log.info("%d/%d %s -> %s (%.1f s)", number, len(items), source, target, work.seconds)
            for note in dict.fromkeys([*lost, *(note for note in further if note not in said)]):
                tell(f"{work.item.source}: {note}")
            said.update(further)

    def advance(before: int, done: int, tiles: int) -> None:
        bar.update(before + done / tiles - bar.n)

    def in_memory() -> float:
        return sum(work.size for _, work, _ in leaving)

    form = "{l_bar}{bar}| {n:.1f}/{total} [{elapsed}<{remaining}]"
    with (
        tqdm(total=len(items), bar_format=form, mininterval=0.3, disable=not (show and items)) as bar,
        _thread() as reader,
        _thread() as writer,
    ):
        following: Work | None = None
        coming: Future[None] | None = None  # of the following one, where it is being read
        for before, item in enumerate(items):
            bar.set_description(f"{before + 1}/{len(items)} {item.source.name}")
            work = following or work_on(item)
            following = work_on(items[before + 1]) if before + 1 < len(items) else None
            alone = work.size > AHEAD  # is read and written here, where a signal ends it at once
            while leaving and in_memory() + work.size > AHEAD and coming is None:
                settle(len(leaving) - 1)
            reading, coming = coming or _begun(None if alone else reader, work.read), None
            try:
                reading.result()
                if following and in_memory() + work.size + following.size <= AHEAD:
                    coming = reader.submit(following.read)
                work.restore(partial(advance, before))
                written = _begun(None if alone else writer, work.write)
            except UserError as error:
                written = Future()
                written.set_exception(error)
            finally:
                bar.update(before + 1 - bar.n)
            leaving.append((before + 1, work, written))
            settle(1)
        settle(0)
    return failed


def _begun(pool: ThreadPoolExecutor | None, step: Callable[[], T]) -> Future[T]:
    """A step of the work, begun in a thread, or done in this one."""
    if pool is not None:
        return pool.submit(step)
    future = Future[T]()
    try:
        future.set_result(step())
    except UserError as error:
        future.set_exception(error)
    return future


@contextmanager
def _thread() -> Iterator[ThreadPoolExecutor]:
    """A thread; at the end what it has begun is finished, and nothing more is begun."""
    pool = ThreadPoolExecutor(1)
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)
