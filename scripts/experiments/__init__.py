"""The paper's experiments, and signs that a model is the paper's detector."""
