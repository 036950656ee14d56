"""Thai writing: normalisation, spoken form, CTC units, phonemes with tones. No audio, no torch."""
