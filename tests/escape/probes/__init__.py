"""Attempts to get out of a sandbox, and the program that makes them. Standard library only.

The program is packed into one file and handed to a kernel, which runs it as a child of its own; the same
program runs in the throwaway control environment (tests/escape/control.py), where nothing forbids what
the probes try. A probe that cannot succeed there proves nothing by failing in the sandbox.

DANGER. Where nothing forbids it, these probes rename the host, kill processes, cover folders and change
system files. They run only through `table.run`, which wants a `place.Permit`, and that is only given
where a look that does no harm (`place.look`) finds every namespace to be another than the host's. The
program itself never runs a probe before that look.
"""
