"""Every error edgeinfer raises on purpose, as one tree.

EdgeInferError            .hint: what to do about it, one line, may be empty
+-- SpecError             model.json says something it may not
+-- BundleError           a bundle is missing, incomplete, changed, or reaches outside itself
+-- CheckpointError       a checkpoint cannot be read
|   +-- UnsafeCheckpoint  a checkpoint asks for code to be run, or for more memory than it may
+-- ExportError           a model cannot be exported as asked
|   +-- FetchError        a known checkpoint cannot be downloaded
+-- BackendUnavailable    a library or device a backend needs is not here
+-- EngineError           an engine failed while loading or running
|   +-- EngineMismatch    an engine was built for another library, GPU or system
+-- DeviceError           the GPU or its driver refused a call
|   +-- DeviceLost        the GPU is lost to this process: only a new process can use it again
+-- SourceError           an image, video or camera cannot be read
+-- DatasetError          a data set is malformed, or does not fit the model
+-- ServiceError          the service cannot start, or does not do what a request asks
+-- InputError            a call of a model cannot be: what it was given is no picture, or it is closed
+-- UsageError            an option asks for something that cannot be (exit code 2)
"""

from __future__ import annotations

import sys


class EdgeInferError(Exception):
    """What was found and what was expected; `hint` holds the remedy, which tracebacks show too (Python 3.11)."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.hint = hint
        if hint and sys.version_info >= (3, 11):
            self.add_note(f"hint: {hint}")


class SpecError(EdgeInferError):
    """model.json says something it may not."""


class BundleError(EdgeInferError):
    """A bundle is missing, incomplete, changed, or reaches outside itself."""


class CheckpointError(EdgeInferError):
    """A checkpoint cannot be read."""


class UnsafeCheckpoint(CheckpointError):
    """A checkpoint asks for code to be run, or for more memory than its own size explains."""


class ExportError(EdgeInferError):
    """A model cannot be exported as asked."""


class FetchError(ExportError):
    """A known checkpoint cannot be downloaded."""


class BackendUnavailable(EdgeInferError):
    """A library or device that a backend needs is not here."""


class EngineError(EdgeInferError):
    """An engine failed while loading or running."""


class EngineMismatch(EngineError):
    """An engine was built for another library, GPU or operating system."""


class DeviceError(EdgeInferError):
    """The GPU or its driver refused a call."""


class DeviceLost(DeviceError):
    """The GPU is lost to this process: every further call fails, and only a new process can use it again."""


class SourceError(EdgeInferError):
    """An image, video or camera cannot be read."""


class DatasetError(EdgeInferError):
    """A data set is malformed, or does not fit the model."""


class ServiceError(EdgeInferError):
    """The service cannot start, or does not do what a request asks."""


class InputError(EdgeInferError):
    """A call of a model cannot be: what it was given is no picture, or it is closed."""


class UsageError(EdgeInferError):
    """An option, of the command line or of a function, asks for something that cannot be."""
