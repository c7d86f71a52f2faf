"""An encoder of images: what it reads are vectors, not tokens."""

from jaxtyping import Array, Float

from attention.lab.models.encoder import Encoder


class PatchEncoder(Encoder):
    """A linear map of every patch plus a learned position, optionally mixed.

    A token's embedding is the same map of a one-hot vector: `vocabulary` is here the number of
    features of a patch, and all else as for `Encoder`.
    """

    def _embed(self, source: Float[Array, "batch time features"]) -> Float[Array, "batch time dim"]:
        return source @ self.embedding[...]
