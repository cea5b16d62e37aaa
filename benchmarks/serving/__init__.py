"""poise beside other servers, on the same model, load and core."""
