"""Speech encoders of several families behind one interface; `interface` is what others import."""
