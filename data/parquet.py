"""The rows of a parquet file as they stand in it, a few at a time. pyarrow is imported where it is needed only."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from data.rows import RawRow


def read_parquet(path: Path) -> Iterator[RawRow]:
    """Rows of a parquet file, in order. Raises ValueError, one line, where it cannot be read."""
    try:
        import pyarrow
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise ValueError(f"{path}: a parquet file needs the package pyarrow: pip install 'pyarrow>=15'") from error
    if int(pyarrow.__version__.split(".")[0]) < 15:  # earlier ones unpickle what a file asks them to
        raise ValueError(f"{path}: pyarrow {pyarrow.__version__} is unsafe: pip install 'pyarrow>=15'")
    number = 0
    try:
        with ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=64):
                for row in batch.to_pylist():
                    number += 1
                    yield RawRow(number, row)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: cannot be read as parquet: {str(error).splitlines()[0]}") from error
