"""Floor 1: which modality plans and which allocation are best; exact programmes over frozen values."""
