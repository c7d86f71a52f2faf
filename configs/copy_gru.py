"""Copy with an autoregressive GRU decoder."""

from ml_collections import ConfigDict

from attention.training.settings import default_config


def get_config(score: str = "mlp") -> ConfigDict:
    config = default_config(score)
    config.name = "copy_gru"
    config.task.symbols = 64
    config.task.max_length = 16
    config.model.decoder = "gru"
    config.model.embedding_std = 0.25
    config.optimizer.learning_rate = 3e-3
    config.train.batch_size = 64
    config.train.steps = 1000
    config.eval.lengths = tuple(range(1, 17))
    return config
