"""Run a bundle; used by train, optimize, evaluate and replicas, so what is proven is what serves."""
