"""Networks and operators that only rivals of MIST use."""
