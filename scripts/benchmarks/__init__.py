"""Time, memory and precision of our models beside Transformers' own, on the same work in one run."""
