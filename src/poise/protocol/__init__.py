"""The Open Inference Protocol as bytes and values: no sockets, no clocks."""
