"""What is done to every tensor: plans from specs alone, choices that need the data, the encoded planes. `allocation` chooses for a size."""
