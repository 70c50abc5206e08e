"""`make bench-cluster`: executors beside bare pods, a bare exec stream, the embedded backend, and the same
kernel reached directly, in one run."""
