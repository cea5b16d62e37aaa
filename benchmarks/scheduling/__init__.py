"""What the scheduler is worth: every policy on the same jobs, simulated and live, beside the fluid bound."""
