"""The laboratory: error rates and calibrations from labelled photographs; never operational data."""
