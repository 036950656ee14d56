"""Local `evaluate` metric: `evaluate.load("<package>/metrics/sr_proxies")`. No hub."""
