"""Duplex byte streams between the gateway and a relay."""
