"""Thai-SUP: sources, augmentation, translation with labels carried over, voices, gates, packing."""
