"""Blind listening: a pack of clips for people to rate, offline, and what their ratings say."""
