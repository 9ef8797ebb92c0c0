"""Reads a sharded (DCP) checkpoint without running anything that its files say.

torch reads tensors with `weights_only`, but unpickles the index (`.metadata`) and every value that is no tensor
whatever they hold. Here the index may name nothing but the classes an index consists of, and values are plain data.

    dcp.load(tensors, storage_reader=Reader(folder), planner=Planner())
"""

from __future__ import annotations

import io
import os
import pickle

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.default_planner import DefaultLoadPlanner
from torch.distributed.checkpoint.metadata import Metadata, StorageMeta
from torch.distributed.checkpoint.planner import ReadItem

_CLASSES = {
    ("pathlib", "PosixPath"),
    ("torch", "Size"),
    ("torch.serialization", "_get_layout"),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    *(
        ("torch.distributed.checkpoint.metadata", name)
        for name in (
            "BytesStorageMetadata", "ChunkStorageMetadata", "Metadata", "MetadataIndex", "StorageMeta",
            "TensorProperties", "TensorStorageMetadata", "_MEM_FORMAT_ENCODING",
        )
    ),
}  # fmt: skip


class _IndexUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str):
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if not is_dtype and (module, name) not in _CLASSES:
            raise pickle.UnpicklingError(f"names {module}.{name}, which no index of a checkpoint does")
        return super().find_class(module, name)


class Reader(FileSystemReader):
    """FileSystemReader whose index is plain data, and whose shards lie in its folder. Raises pickle.UnpicklingError for
    an index that names anything else, ValueError for one that points out of the folder."""

    def read_metadata(self, *args, **kwargs) -> Metadata:
        with open(os.path.join(self.path, ".metadata"), "rb") as file:
            metadata = _IndexUnpickler(file).load()
        for place in metadata.storage_data.values():
            if os.path.basename(place.relative_path) != place.relative_path:
                raise ValueError(f"{self.path}/.metadata: a shard must lie beside it, got {place.relative_path!r}")
        metadata.storage_meta = metadata.storage_meta or StorageMeta()
        metadata.storage_meta.load_id = self.load_id
        return metadata


class Planner(DefaultLoadPlanner):
    """DefaultLoadPlanner whose values that are no tensors (AdamW's settings) are plain data, or
    pickle.UnpicklingError."""

    def load_bytes(self, read_item: ReadItem, value: io.BytesIO) -> None:
        copy = io.BytesIO()  # written anew, so that what the parent class unpickles is ours and not the file's
        torch.save(torch.load(value, weights_only=True), copy)
        copy.seek(0)
        super().load_bytes(read_item, copy)
