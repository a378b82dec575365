"""Reports for people: tables, figures and pages that need no network and come out the same, byte for byte, from the same input."""
