"""The colours that tell things apart in every picture of the project."""

KIND_COLOURS = ("#4c78a8", "#e8894a", "#54a07a", "#b279a2", "#9d755d", "#8c8c8c", "#d6b13f", "#7a6fc1")
