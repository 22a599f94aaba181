"""Networks and operators that methods are built from."""
