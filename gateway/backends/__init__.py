"""Backends make, list and destroy sandboxes; each is chosen by the name of an entry point."""
