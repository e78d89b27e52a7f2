"""The budget search: so many bytes become a plan, the scheme, dimension and bits of every field, learned together."""
