"""The encoders of the package, by the names that configs call them."""

from attention.lab.models.encoder import Encoder
from attention.lab.models.patches import PatchEncoder

ENCODERS: dict[str, type[Encoder]] = {"tokens": Encoder, "patches": PatchEncoder}
