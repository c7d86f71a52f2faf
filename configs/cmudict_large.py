"""Pronounce the words of the CMU Pronouncing Dictionary with a model of the published size.

    python train.py --config configs/cmudict_large.py   # or :bilinear, …
    python eval.py --workdir runs/cmudict_large-mlp --text attention

4.2 million parameters, meant for 10 minutes on one H100, and for a comparison with the published
attention encoder-decoders (such as Toshniwal and Livescu, arXiv 1610.06540). Every word takes
part: 12,479 test words of up to 28 letters. **Not yet measured.** The published figures, word error
rates of 20 to 25 %, are of the dictionary of 2007 and its usual split; of the one that is current,
without stress, the authors of g2p-seq2seq report 34 % for Phonetisaurus and about 31 % for a
transformer, on a split of theirs. The smaller model of `configs/cmudict.py` is measured.
"""

from ml_collections import ConfigDict

from attention.training.settings import default_config


def get_config(score: str = "mlp") -> ConfigDict:
    config = default_config(score, task="cmudict")
    config.name = "cmudict_large"
    config.task.max_length = 28  # the longest word
    if "hidden" in config.score.options:
        config.score.options.hidden = 256
    config.model.decoder = "gru"
    config.model.mixer = "gru"
    config.model.positions = "none"
    config.model.dim = 512
    config.model.embedding_std = 0.25
    config.model.dropout = 0.3
    config.optimizer.learning_rate = 1e-3
    config.train.steps = 30_000
    config.train.batch_size = 256
    config.train.log_every_steps = 500
    config.train.eval_every_steps = 5000
    config.train.checkpoint_every_steps = 5000
    config.eval.sequences = 16_384  # all held-out words
    config.eval.batch_size = 512
    return config
