"""Pure arithmetic of faces: boxes, templates, comparison scores and what a score means. numpy and stdlib only."""
