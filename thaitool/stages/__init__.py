"""The six stages: `run(config) -> Result`. No printing, no exit; stages never import each other."""
