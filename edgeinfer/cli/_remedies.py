"""What an error is told as, and what helps against it: its own words, or where they hold no remedy, by its kind."""

from __future__ import annotations

import traceback
from pathlib import Path

from edgeinfer import errors
from edgeinfer.pictures import WITH_OPENCV

EXPORT = "export the bundle again: edgeinfer export SOURCE -o DIR"
HERE = "edgeinfer doctor says what this machine has, and what is wrong"
GONE = 'the folder this runs in was replaced or removed: cd "$PWD" goes to what has its name now'
NUMPY_1 = 'pip install "numpy<2": it was built for NumPy 1'  # as JetPack's OpenCV is
REMEDIES: dict[type[errors.EdgeInferError], str] = {
    errors.SpecError: EXPORT,
    errors.BundleError: EXPORT,
    errors.CheckpointError: "the file is damaged, or not of torch.save: download or copy it again",
    errors.UnsafeCheckpoint: "do not load this file with PyTorch; ask its author for model.state_dict() or safetensors",
    errors.ExportError: "the same command with --plan shows what would be done",
    errors.BackendUnavailable: HERE,
    errors.EngineError: "edgeinfer verify BUNDLE checks the files, and what this machine finds with them",
    errors.DeviceError: HERE,
    errors.SourceError: "check the path or the address",
    errors.DatasetError: "mend the data set there, or give another",
    errors.ServiceError: "see edgeinfer serve --help",
    errors.InputError: "give pictures (height, width, 3) of uint8",
    errors.UsageError: "see edgeinfer --help, and --help behind the verb",
}

# what `import` calls it: (what people call it, the remedy)
LIBRARIES = {
    "cv2": ("OpenCV", WITH_OPENCV),
    "onnxruntime": ("ONNX Runtime", 'pip install "edgeinfer[cpu]"'),
    "numpy": ("NumPy", "pip install numpy"),
    "onnx": ("onnx", 'pip install "edgeinfer[export]"'),
    "faster_coco_eval": ("faster-coco-eval", 'pip install "edgeinfer[validate]"'),
    "grpc": ("gRPC", 'pip install "edgeinfer[serve]"'),
    "yaml": ("PyYAML", 'pip install "edgeinfer[validate]"'),
}
MORE_THREADS = "raise the limit of processes (ulimit -u)"
LESS_MEMORY = "close other programs, use a smaller model, or raise the limit of memory (ulimit -v)"
# what a limit of the process is told by, in the words of Python and the system: what it means, and the remedy
LIMITS = {
    "can't start new thread": ("no more threads can be started", MORE_THREADS),
    "pthread_create failed": ("no more threads can be started", MORE_THREADS),
    "Resource temporarily unavailable": ("no more threads can be started", MORE_THREADS),  # std::thread, fork
    "failed to map segment": ("there is no memory to load a library", "raise the limit of memory (ulimit -v)"),
    "Cannot allocate memory": ("out of memory", LESS_MEMORY),
    "bad_alloc": ("out of memory", LESS_MEMORY),
    "Too many open files": ("too many files are open", "raise the limit of open files (ulimit -n)"),
}


def words(error: Exception) -> tuple[str, str]:
    """What is said of an error, and what to do about it."""
    told, remedy = _words(error)
    try:
        Path.cwd()
    except FileNotFoundError:
        remedy = GONE
    return told, remedy


def _words(error: Exception) -> tuple[str, str]:
    if isinstance(error, errors.EdgeInferError):
        # what a slow reader of a pipe refuses is no thread
        slow = isinstance(error.__cause__, BlockingIOError)
        return str(error), of(error) if slow else of_library(str(error), of(error))
    if isinstance(error, ModuleNotFoundError) and error.name in LIBRARIES:
        called, remedy = LIBRARIES[error.name]
        return f"{called} is not installed", remedy
    for told, meant in LIMITS.items():
        if told in str(error):
            return meant
    if library := _unloaded(error):
        file, (called, remedy) = library[1], LIBRARIES.get(library[0], (library[0], "install it again"))
        remedy = of_library(str(error), f"mend what that names, or: {remedy}")
        return f"{called} is here ({file}) and cannot be loaded: {error}", remedy
    if isinstance(error, MemoryError):
        return f"out of memory {error}", LESS_MEMORY
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return f"{where}{error.strerror}", "check free space, permissions and paths"
    return f"unexpected {type(error).__name__}: {error}", "run again with EDGEINFER_DEBUG=1, and report what it prints"


def _unloaded(error: Exception) -> tuple[str, str] | None:
    """The library whose import this error ended, and its file; None if it came from elsewhere."""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        name, code = str(frame.f_globals.get("__name__")).partition(".")[0], frame.f_code
        if code.co_name == "<module>" and not name.startswith("edgeinfer"):
            return name, code.co_filename
    return None


def of(error: errors.EdgeInferError) -> str:
    """The error's own remedy, or that of its kind; never empty for the kinds of the tree."""
    return error.hint or next((REMEDIES[kind] for kind in type(error).__mro__ if kind in REMEDIES), "")


def of_library(said: str, otherwise: str) -> str:
    """What helps a library that is installed and does not load or work, by what it said."""
    known = {"numpy.core.multiarray": NUMPY_1, **{told: remedy for told, (_, remedy) in LIMITS.items()}}
    return next((remedy for told, remedy in known.items() if told in said), otherwise)
