"""One run's life: built, trained, checkpointed, recorded, predicted, traced."""
