"""Stochastic variational inference: the trainer, its steps, its optimizers."""
