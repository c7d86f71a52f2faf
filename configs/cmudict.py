"""Pronounce the words of the CMU Pronouncing Dictionary, letters to phonemes."""

from ml_collections import ConfigDict

from attention.training.settings import default_config


def get_config(score: str = "mlp") -> ConfigDict:
    config = default_config(score, task="cmudict")
    config.name = "cmudict"
    config.task.max_length = 16
    config.model.decoder = "gru"
    config.model.mixer = "gru"
    config.model.positions = False
    config.model.dim = 128
    config.model.embedding_std = 0.25
    config.optimizer.learning_rate = 3e-3
    config.train.steps = 6000
    config.train.batch_size = 64
    config.train.eval_every_steps = 2000
    config.train.checkpoint_every_steps = 2000
    config.eval.sequences = 16384  # all held-out words
    config.eval.batch_size = 256
    return config
