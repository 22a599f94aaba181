"""The authors' files and step: read, and computed beside ours."""
