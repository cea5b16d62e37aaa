"""Floor 4: measures latency, accuracy, memory and load time on real hardware."""
