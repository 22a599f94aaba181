"""Tables: what stands where, in which form, with which verdict."""
