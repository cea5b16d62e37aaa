"""How good the forecasters are, on a trace that nobody here recorded."""
