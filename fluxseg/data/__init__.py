"""From recordings to batches: numpy and Grain only, no accelerator."""
