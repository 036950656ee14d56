"""What sentences, voices and clips must pass before they become rows. Makes and repairs nothing."""
