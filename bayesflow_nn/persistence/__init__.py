"""Fitted objects in one file: their numbers as safetensors, their structure as JSON."""

from bayesflow_nn.persistence.files import PersistenceMethods, load, save

__all__ = ["PersistenceMethods", "load", "save"]
