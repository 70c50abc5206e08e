"""What several test folders share: the platform list, the conditions that it is made of, and helpers."""
