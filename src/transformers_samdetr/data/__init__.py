"""Detection data: sources, scenes for a first run, augmentation and batches."""
