"""Trained models: written, loaded, asked; and their form for MLflow."""

from ctan.inference.load import LoadedModel, load_network, save_network

__all__ = ["LoadedModel", "load_network", "save_network"]
