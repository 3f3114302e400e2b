"""Predicts whether a model fits into memory, and finds alternatives."""
