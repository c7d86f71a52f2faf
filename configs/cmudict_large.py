"""Pronounce the words of the CMU Pronouncing Dictionary, with a larger model and for longer.

    python train.py --config configs/cmudict_large.py   # or :bilinear, …
    python eval.py --workdir runs/cmudict_large-mlp --text attention

As `configs/cmudict.py`, with 1.2 million parameters, dropout and 29 epochs: 96 minutes on one CPU
core. On the same 12,467 test words, greedy decoding, any pronunciation counted as right, stress
left out: phoneme error rate 0.0638, word error rate 0.2675 (seed 100, the only one run; on the
validation words 0.0617 and 0.2490).

Published attention encoder-decoders (such as Toshniwal and Livescu, arXiv 1610.06540) have word
error rates of 20 to 25 % on the dictionary of 2007 and its usual split. Of a current one, without
stress, the authors of g2p-seq2seq report 34 % for Phonetisaurus and about 31 % for a transformer,
on a split of theirs. `--config.model.dim=512 --config.score.options.hidden=256` makes it 4.8
million parameters, for a GPU; that was not run.
"""

from ml_collections import ConfigDict

from attention.lab.configs import default_config


def get_config(score: str = "mlp") -> ConfigDict:
    config = default_config(score, task="cmudict")
    config.task.max_length = 16
    if "hidden" in config.score.options:
        config.score.options.hidden = 128
    config.model.decoder = "gru"
    config.model.mixer = "gru"
    config.model.positions = "none"
    config.model.dim = 256
    config.model.embedding_std = 0.25
    config.model.dropout = 0.3
    config.optimizer.learning_rate = 2e-3
    config.train.steps = 27_000
    config.train.batch_size = 128
    config.train.log_every_steps = 500
    config.train.eval_every_steps = 3000
    config.train.checkpoint_every_steps = 3000
    config.eval.sequences = 16_384  # all held-out words
    config.eval.batch_size = 512
    return config
