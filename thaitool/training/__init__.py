"""The one training loop (Accelerate), checkpoints, exact resume and accounting."""
