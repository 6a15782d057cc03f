"""Files of weights that stackc does not open, and how each becomes one that it does."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import PurePath

_PICKLE = (
    "is a pickle, which can run code when it is opened, so stackc does not: if its model is one of transformers, open it there "
    "and write it with model.save_pretrained(folder); else convert the tensors once with "
    "safetensors.torch.save_file(torch.load({name!r}, weights_only=True), {safe!r})"
)
_TENSORFLOW = (
    "holds weights of {framework}: transformers before 5 opens them with from_pretrained(folder, {option}=True), and "
    "model.save_pretrained(new_folder) writes a folder that stackc takes"
)

#: What to do, by suffix.
_ADVICE = {
    **dict.fromkeys((".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"), _PICKLE),
    ".gguf": "is a GGUF file: transformers opens it with from_pretrained(folder, gguf_file={name!r}), and "
    "model.save_pretrained(new_folder) writes a folder that stackc takes; the model that the file was made from is better, "
    "since most of these are quantised already",
    ".onnx": "is an exported graph, whose weights have lost their names: give the model that it was exported from",
    ".h5": _TENSORFLOW.format(framework="TensorFlow", option="from_tf"),
    ".msgpack": _TENSORFLOW.format(framework="Flax", option="from_flax"),
    ".stackc": "is a compressed model: 'stackc decode {name}' writes a folder that stackc takes",
}


def advice(path: PurePath) -> str:
    """What is the matter with a file that is no safetensors file, and what works.

    Parameters
    ----------
    path : PurePath
        Its name is looked at, not its content.

    Examples
    --------
    >>> advice(PurePath("model.onnx"))
    'is an exported graph, whose weights have lost their names: give the model that it was exported from'
    >>> advice(PurePath("notes.txt"))
    'is not a model: give a .safetensors file or the folder of a Hugging Face model'
    """
    if path.name == "config.json" or path.name.endswith(".safetensors.index.json"):
        return "is a part of a model: give the folder that it is in"
    known = _ADVICE.get(path.suffix.lower())
    if known is None:
        return "is not a model: give a .safetensors file or the folder of a Hugging Face model"
    return known.format(name=path.name, safe=f"{path.stem}.safetensors")


def foreign_weights(names: Iterable[str]) -> str | None:
    """The first file among those of a folder that holds weights in another format.

    Examples
    --------
    >>> foreign_weights(["README.md", "tokenizer.json", "model-q4.gguf", "training_args.bin"])
    'model-q4.gguf'
    """
    beside = ("training_args.bin", "optimizer.pt", "scheduler.pt", "scaler.pt", "rng_state.pth")  # of a Trainer
    found = (name for name in sorted(names) if name not in beside and not name.startswith("rng_state_"))
    return next((name for name in found if PurePath(name).suffix.lower() in _ADVICE), None)
