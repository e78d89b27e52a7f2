"""train: rows and a recipe become a run directory."""
