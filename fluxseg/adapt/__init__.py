"""Few labels put to use: fine-tuning, learning curves, and the review of labels."""
