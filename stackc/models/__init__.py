"""References: the uncompressed models that runs start from, opened, read tensor by tensor and built.

Importing this package loads neither torch nor transformers; building a model does.
"""

from __future__ import annotations

from stackc.models.building import build_transformers
from stackc.models.module import ModuleReference
from stackc.models.random_weights import random_reference, require_architecture
from stackc.models.reference import Kind, Reference
from stackc.models.resolve import DEMO_MODELS, names_code, open_reference, refuse_code
from stackc.models.safetensors_file import SafetensorsReference
from stackc.models.saving import save_folder
from stackc.models.sharing import restore_ties, ties_of
from stackc.models.tokenizers import load_tokenizer, tokenizer_from_files
from stackc.models.transformers_folder import TransformersReference

__all__ = [
    "DEMO_MODELS",
    "Kind",
    "ModuleReference",
    "Reference",
    "SafetensorsReference",
    "TransformersReference",
    "build_transformers",
    "load_tokenizer",
    "names_code",
    "open_reference",
    "random_reference",
    "refuse_code",
    "require_architecture",
    "restore_ties",
    "save_folder",
    "ties_of",
    "tokenizer_from_files",
]
