"""One module for each form in which sources are written: text to rows. Recognises no form: `formats` does."""
