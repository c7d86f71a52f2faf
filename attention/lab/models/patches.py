"""An encoder of images, which are sequences of patches: it reads vectors, not tokens."""

from jaxtyping import Array, Float

from attention.lab.models.encoder import Encoder


class PatchEncoder(Encoder):
    """A linear map of every patch plus a learned position, optionally mixed.

    The arguments are those of `Encoder`, but `vocabulary` is the number of features of a patch: an
    embedding of tokens is a linear map of one-hot vectors, so the parameters have one shape.
    """

    def _embed(self, source: Float[Array, "batch time features"]) -> Float[Array, "batch time dim"]:
        return source @ self.embedding[...]
