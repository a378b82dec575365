"""Models: pixels in, numbers out."""
