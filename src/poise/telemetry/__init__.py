"""What a running server tells of itself: metrics, spans and log lines."""
