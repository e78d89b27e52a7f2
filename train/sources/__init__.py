"""Sources: where rows come from, one file per layout."""
