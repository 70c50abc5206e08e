"""`python -m gateway` is `jupyter gateway`."""

from .app import main

main()
