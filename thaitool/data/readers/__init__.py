"""Other tools' lists of recordings, one file per format. Reads lists; opens no sound file."""
