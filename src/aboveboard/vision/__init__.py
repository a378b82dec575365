"""Models: pixels in, numbers out."""

import os

# onnxruntime (from 1.29 on) sends usage data to its maker and keeps an id of the machine in ~/.cache, unless this is set before
# it is imported; only this package imports it. Set, not defaulted: nobody switches that on by an accident of his environment.
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
