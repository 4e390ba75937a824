"""What helps against an error whose own words hold no remedy, by its kind."""

from __future__ import annotations

from edgeinfer import errors

EXPORT = "export the bundle again: edgeinfer export SOURCE -o DIR"
HERE = "edgeinfer doctor says what this machine has, and what is wrong"
NUMPY_1 = 'pip install "numpy<2": it was built for NumPy 1'
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


def of(error: errors.EdgeInferError) -> str:
    """The error's own remedy, or that of its kind; never empty for the kinds of the tree."""
    return error.hint or next((REMEDIES[kind] for kind in type(error).__mro__ if kind in REMEDIES), "")


def of_library(said: str, otherwise: str) -> str:
    """What helps a library that is installed and does not load, by what it said."""
    return NUMPY_1 if "numpy.core.multiarray" in said else otherwise
