"""Jobs over several clean processes, with a count of what is done.

The processes are spawned, never forked: a decoder that a process inherits over a fork hangs. One that dies (memory, a
crash inside a decoder) ends the work with an error that says so; one whose parent dies ends itself.
"""

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from typing import Any, TypeVar

Job = TypeVar("Job")
Result = TypeVar("Result")
Advance = Callable[[int], None]
"""Called with how much more is done."""

_counter: Any = None


def run_all(
    work: Callable[[Job, Advance], Result], jobs: Sequence[Job], workers: int, advance: Advance
) -> Iterator[Result]:
    """The results of all jobs, in their order. `work` is a function of a module; jobs and results can be pickled.

    workers  processes; with one, or one job, the work is done in this process

    Raises:
        ValueError: if a process died.
    """
    if workers == 1 or len(jobs) <= 1:
        yield from (work(job, advance) for job in jobs)
        return
    context = multiprocessing.get_context("spawn")
    counter = context.Value("q", 0)
    with ProcessPoolExecutor(min(workers, len(jobs)), context, _begin, (counter,)) as pool:
        try:
            futures = [pool.submit(_run, work, job) for job in jobs]
            _watch(futures, counter, advance)
            yield from (future.result() for future in futures)
        except BrokenProcessPool as error:
            raise ValueError(
                "a worker process died: out of memory, or a decoder crashed. What is whole is kept: go on with "
                "--resume, and fewer --workers if memory was the reason"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _watch(futures: Sequence[Future], counter: Any, advance: Advance) -> None:
    """Passes the count on until all is done or one has failed."""
    told, pending = 0, set(futures)
    while pending:
        done, pending = wait(pending, timeout=0.1, return_when=FIRST_COMPLETED)
        advance(counter.value - told)
        told = counter.value
        if any(future.exception() is not None for future in done):
            return


def _begin(counter: Any) -> None:
    global _counter
    _counter = counter
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends the work

    def end_with_parent() -> None:
        parent = multiprocessing.parent_process()
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()


def _run(work: Callable[[Job, Advance], Result], job: Job) -> Result:
    def count(more: int) -> None:
        with _counter.get_lock():
            _counter.value += more

    return work(job, count)
