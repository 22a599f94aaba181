"""What images are made of, and the files they are kept in."""
