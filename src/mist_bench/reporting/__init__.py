"""Tables, figures and the report, from stored metrics."""
