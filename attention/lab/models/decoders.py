"""The decoders of the package, by the names that configs call them."""

from attention.lab.models.decoder import Decoder
from attention.lab.models.location import LocationDecoder
from attention.lab.models.parallel import ParallelDecoder
from attention.lab.models.pooled import PooledDecoder
from attention.lab.models.recurrent import ElmanDecoder, GRUDecoder, LSTMDecoder

DECODERS: dict[str, type[Decoder]] = {
    "parallel": ParallelDecoder,
    "location": LocationDecoder,
    "pooled": PooledDecoder,
    "elman": ElmanDecoder,
    "gru": GRUDecoder,
    "lstm": LSTMDecoder,
}
