"""Labelled rows of Hugging Face data sets."""

from __future__ import annotations

import importlib.util

from stackc.tasks.data.table import Table
from stackc.util.cache import require_download_folder
from stackc.util.errors import DataError, DependencyError


def check_hub(data: str) -> None:
    """Whether the package that loads Hugging Face data sets is installed; the network is not asked.

    Raises
    ------
    DependencyError
        If not.
    """
    if importlib.util.find_spec("datasets") is None:
        raise DependencyError(
            f"there is no file {data!r}, and loading a Hugging Face data set of that name needs the package datasets: "
            "pip install 'stackc[data]'"
        )


def read_hub(data: str, subset: str | None, split: str) -> Table:
    """Rows of a split of a Hugging Face data set, from the network or from its cache.

    Raises
    ------
    DataError
        If it cannot be found or read.
    DependencyError
        If the package datasets is not installed.
    """
    check_hub(data)
    import datasets

    name = f"{data}, {subset}" if subset else data
    try:
        require_download_folder()
        rows = datasets.load_dataset(data, name=subset, split=split)
    except (OSError, ValueError, RuntimeError) as error:  # the package's own errors derive from these
        reason = str(error).strip().partition("\n")[0]
        raise DataError(
            f"the data set {name}, split {split!r}, cannot be loaded ({reason}); {data!r} is not a file either"
        ) from error
    columns = {column: rows[column] for column in rows.column_names}
    features = {column: getattr(feature, "names", None) for column, feature in rows.features.items()}
    names = {column: tuple(classes) for column, classes in features.items() if classes}
    return Table(f"{name} ({split})", "row", range(1, len(rows) + 1), columns, names)
