"""Floor 2: decides order, batch, mode and worker; events in, commands out."""
