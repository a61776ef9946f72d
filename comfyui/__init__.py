"""Streaming video with a visible hidden state, as nodes of ComfyUI. This folder goes into its custom_nodes/."""

try:
    from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS
except ModuleNotFoundError as error:
    if (error.name or "").partition(".")[0] != "adastate":
        raise
    raise ImportError(
        "these nodes need adastate in ComfyUI's own Python: `python -m pip install -e CHECKOUT`, with the Python that "
        "runs ComfyUI and the folder of adastate's checkout"
    ) from error

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
