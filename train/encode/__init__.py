"""Encode: raw rows, larger than memory, become a cache of ids and numbers that training maps into memory."""
