"""Model contracts, checkpoint layouts, evaluation and training."""
