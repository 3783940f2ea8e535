"""The error tree. One root; each class also has the standard parent that fits.

::

    HeadraceError
    |-- ConfigurationError (ValueError)      a setting, name or option that cannot be used
    |   |-- MissingExtraError (ImportError)   a package that an extra would install
    |   |-- ParameterError                    flow parameters that do not validate
    |   `-- MappingError                      arguments of ``.map`` that cannot be mapped over
    |-- ExecutorError (RuntimeError)         an executor that cannot start or be reached
    |   |-- ResourceError                     resources that can never be honoured
    |   `-- VersionMismatchError              a worker whose Python or libraries do not fit
    |-- StorageError (OSError)               a store that cannot be read or written
    |   |-- NotFoundError (FileNotFoundError)
    |   |-- AlreadyExistsError (FileExistsError)
    |   |-- UnreachableStoreError             a worker cannot see the driver's store
    |   |-- DamagedPartitionError             a checksum does not fit
    |   |-- UntrustedStoreError               pickled values in a store that is not trusted
    |   `-- TakenOverError                    another driver writes this run now
    |-- HistoryError (RuntimeError)
    |   `-- RunNotFoundError (LookupError)
    |-- UnstorableError (TypeError)          a value that is neither Arrow data nor picklable
    |-- UnpicklableError (TypeError)         a function or argument that cannot travel
    |-- FingerprintError (TypeError)       an input that cannot be recognised again
    |-- NestedSubmitError (RuntimeError)     ``.submit``/``.map`` inside a running task
    |-- TransitionError (RuntimeError)       a state change that the table does not know: a bug
    `-- RunError (RuntimeError)              a run or item that did not complete
        |-- TaskFailed                        stands in for an exception that could not travel
        |-- TaskTimeout (TimeoutError)
        |-- TaskCrashed                       the process that ran it died
        |-- UpstreamFailed                    not run, because what it needs failed
        |-- MapFailed                         several items of a mapped task failed
        |-- FlowTimeout (TimeoutError)
        `-- Cancelled

Beside it stands `Terminated` (SystemExit): SIGTERM ends the driver.

Messages say what, which run, task or item, and what to do. All of them pickle both ways.
"""

from __future__ import annotations


class HeadraceError(Exception):
    """Root of all errors that headrace raises on purpose."""


class ConfigurationError(HeadraceError, ValueError):
    """A setting, a name or an option cannot be used."""


class MissingExtraError(ConfigurationError, ImportError):
    """A package is not installed that one of headrace's extras would install."""


class ParameterError(ConfigurationError):
    """A flow's parameters do not validate."""


class MappingError(ConfigurationError):
    """The arguments of ``.map`` cannot be mapped over."""


class ExecutorError(HeadraceError, RuntimeError):
    """An executor cannot be started or reached."""


class ResourceError(ExecutorError):
    """A resource is asked for that the executor can never give."""


class VersionMismatchError(ExecutorError):
    """A worker's Python or libraries do not fit the driver's."""


class StorageError(HeadraceError, OSError):
    """A store cannot be read or written."""


class NotFoundError(StorageError, FileNotFoundError):
    """No such object."""


class AlreadyExistsError(StorageError, FileExistsError):
    """The object is there already."""


class UnreachableStoreError(StorageError):
    """A worker cannot see the store that the driver writes to."""


class DamagedPartitionError(StorageError):
    """A partition's bytes do not fit its checksum."""


class UntrustedStoreError(StorageError):
    """A store holds pickled values and is not trusted."""


class TakenOverError(StorageError):
    """Another driver has taken this run over; this one must stop."""


class HistoryError(HeadraceError, RuntimeError):
    """The history cannot be read or written."""


class RunNotFoundError(HistoryError, LookupError):
    """History knows no such run."""


class UnstorableError(HeadraceError, TypeError):
    """A value is neither Arrow data nor picklable."""


class UnpicklableError(HeadraceError, TypeError):
    """A function or an argument cannot be pickled, so it cannot travel to a worker."""


class FingerprintError(HeadraceError, TypeError):
    """A value has no fingerprint, so it cannot be recognised again."""


class NestedSubmitError(HeadraceError, RuntimeError):
    """``.submit`` or ``.map`` was called inside a running task."""


class TransitionError(HeadraceError, RuntimeError):
    """A state change that the table of transitions does not know."""


class RunError(HeadraceError, RuntimeError):
    """A run or an item did not complete."""


class TaskFailed(RunError):
    """Stands in for an exception of user code that could not travel; holds its text."""


class TaskTimeout(RunError, TimeoutError):
    """A task passed its ``timeout_seconds``."""


class TaskCrashed(RunError):
    """The process that ran a task died."""


class UpstreamFailed(RunError):
    """A task did not run because something it needs did not complete."""


class MapFailed(RunError):
    """Items of a mapped task failed."""


class FlowTimeout(RunError, TimeoutError):
    """A flow passed its ``timeout_seconds``."""


class Cancelled(RunError):
    """A run or a task was cancelled."""


class Terminated(SystemExit):
    """SIGTERM came while runs were under way: raised in the main thread, once they are cancelled."""
