"""Aboveboard: face analysis and face search on the Amazon Rekognition API, calibrated and on record."""

__version__ = "0.1.0"
