"""The command line: options to config to run to render. Imports stages inside functions only."""
