"""`make bench`: this gateway beside the bare kernel and the current peers, in one run, as ratios."""
