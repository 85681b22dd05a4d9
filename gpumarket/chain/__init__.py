"""The only door to the chain: reads, events, typed signatures, transactions."""
