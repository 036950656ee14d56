"""fairseq wav2vec 2.0 checkpoints without fairseq: read as data, named and configured as transformers does."""
