"""Our network with the mixin of huggingface_hub; its annotations are no texts, by which it knows the dataclass."""

from huggingface_hub import PyTorchModelHubMixin

from adastate.models.video_network import Size
from adastate.models.wan import DiT


class MixedIn(DiT, PyTorchModelHubMixin):
    def __init__(self, size: Size) -> None:
        super().__init__(size)
