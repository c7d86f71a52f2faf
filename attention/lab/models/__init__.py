"""Models: an encoder, a decoder with attention, and the reconstructor that joins them."""
