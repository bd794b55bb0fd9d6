"""Where work runs: child processes with deadlines, quiet for timing, and the answer to Ctrl-C.

`child.Child` runs a function in a process of its own, `worker` is the program that process runs,
`quiet` keeps a machine still while something is timed, and `interrupt.Stop` turns Ctrl-C into an
orderly end.
"""
