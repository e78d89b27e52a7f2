"""`quorem search`: the embedding dimension of every field, chosen by what the validation rows say."""
