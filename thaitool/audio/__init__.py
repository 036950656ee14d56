"""Sound files to float32 mono samples at one rate, and back. No models."""
