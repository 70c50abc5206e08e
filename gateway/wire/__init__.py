"""What travels on a link, without any I/O: framing and the codecs of kernel messages.

Standard library only, because the relay imports it inside every sandbox.
"""
