"""Performance as a kept benchmark: what a step costs, where, and how that grows."""
