"""The parts behind `gpumarket.client`, the renter's SDK."""
