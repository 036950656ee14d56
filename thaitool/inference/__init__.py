"""Questions about recordings of any length to answers, many at a time."""
