"""What a target would take here, before anything starts."""
