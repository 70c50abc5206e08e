"""What `make` runs: sets this machine up, serves, tests. Standard library only: nothing is installed yet."""
